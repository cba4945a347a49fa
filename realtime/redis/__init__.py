"""The event bus between workers, over Redis pub/sub."""
