"""The party for which commands call the service."""

from app.contracts.callers import trusted_caller
from app.contracts.commands import Origin

CLI_CALLER = trusted_caller("command-line")
"""Access to the database is what authorises commands, so that the service checks no roles of them."""
CLI_ORIGIN = Origin(CLI_CALLER, client="command-line")
