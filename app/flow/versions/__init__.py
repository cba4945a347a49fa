"""Versions of a definition: their differences, and the migration of states between them."""
