"""Definitions: publishing, catalogue, visibility, and their sources."""
