"""Models that live in tests only: they put the contract under strain."""
