"""Wrapping keys in key management services. They wrap data keys, which are cached, and never see data."""
