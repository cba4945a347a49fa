"""Processes: the embedded servers, the workers, and that none outlives its parent."""
