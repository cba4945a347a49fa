"""The command line: ``server-flow``. Each module adds its commands to the group."""

from app.cli import diagram, exchange, flows, migration, operate, serve, state, token, user
from app.cli.command import main

__all__ = ["diagram", "exchange", "flows", "main", "migration", "operate", "serve", "state", "token", "user"]
