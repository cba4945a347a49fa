"""Differences between versions of a definition, and how states move from one to another."""
