"""Requests to configured addresses, with a guard against private networks (SSRF)."""
