"""The party for which commands call the service."""

import os
from getpass import getuser

from app.contracts.callers import trusted_caller
from app.contracts.commands import Origin
from app.services.audit.source import ActSource

CLI_CALLER = trusted_caller("command-line")
"""Access to the database is what authorises commands, so that the service checks no roles of them."""
CLI_ORIGIN = Origin(CLI_CALLER, client="command-line")


def command_source() -> ActSource:
    """Return the source of a command, which names the account that runs it in the audit log."""
    try:
        account = getuser()
    except (KeyError, OSError):  # an id without a name, as in some containers
        account = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return ActSource("cli", account=account)
