"""The command line, in process: what a user types and what comes back."""
