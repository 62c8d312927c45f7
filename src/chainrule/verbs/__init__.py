"""Layer 4: what a user does with a model, one file a verb."""
