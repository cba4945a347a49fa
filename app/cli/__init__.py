"""The command line: ``server-flow``."""

from app.cli.command import main

__all__ = ["main"]
