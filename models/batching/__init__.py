"""Group commit: many writes of one collection in one command."""
