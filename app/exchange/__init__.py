"""Definitions in other formats: YAML, and state machines of XState."""
