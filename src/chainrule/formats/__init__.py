"""Weights and tokenizers of other libraries, read and written."""
