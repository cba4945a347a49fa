"""Definitions as others write them: YAML, and state machines of XState. What they cannot say is listed."""
