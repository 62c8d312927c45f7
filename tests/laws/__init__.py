"""The laws of DESIGN §3: what holds for every model, strategy and codec that is listed."""
