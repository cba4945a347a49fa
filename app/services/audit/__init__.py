"""The audit log: entries of administrative acts, written before and after each act."""
