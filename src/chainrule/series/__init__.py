"""Classical forecasting, batched over all series: many short series at once."""
