"""Layer 0: read these files and you know the library."""
