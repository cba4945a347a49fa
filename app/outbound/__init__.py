"""Requests to addresses that users configure, kept away from private networks."""
