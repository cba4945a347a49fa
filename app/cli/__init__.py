"""The command line: ``server-flow``. Each module adds its commands to the group."""

from app.cli import flows, operate, serve, state, user
from app.cli.command import main

__all__ = ["flows", "main", "operate", "serve", "state", "user"]
