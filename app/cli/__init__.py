"""The command line ``server-flow``. A module adds its commands to the group when one of them runs."""

from app.cli.command import main

__all__ = ["main"]
