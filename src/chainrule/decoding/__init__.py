"""Layer 2: which symbols are picked, in what order."""
