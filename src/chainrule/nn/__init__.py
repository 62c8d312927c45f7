"""Layer 1: the parts that networks are built of."""
