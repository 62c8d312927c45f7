"""Layer 3: from examples to weights."""
