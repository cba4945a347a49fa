"""Live updates: local subscribers, catching up, presence."""
