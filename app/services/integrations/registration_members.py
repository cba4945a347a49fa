"""Members of a registration: those that a command sets, and a hash of them for the audit log."""

from typing import Any

from msgspec import UNSET, structs, to_builtins

from app.contracts.integration import Integration
from app.contracts.integration_commands import RegistrationCommand
from app.kit.hash_chain import json_hash

DEFAULTS = {
    "url": None,
    "events": None,
    "flows": None,
    "steps": None,
    "stream": False,
    "rate": None,
    "concurrency": 10,
    "thin": False,
    "fields": None,
}


def given_members(command: RegistrationCommand) -> dict[str, Any]:
    """Return the members that a command sets; null stands for the default."""
    given = {name: getattr(command, name) for name in DEFAULTS}
    return {
        name: DEFAULTS[name] if value is None else value
        for name, value in given.items()
        if value is not UNSET
    }


def registration_hash(integration: Integration) -> str:
    """Return the SHA-256 of a registration, without its secrets and reports, as deterministic JSON."""
    return json_hash(to_builtins(structs.replace(integration, secrets=(), heartbeat=UNSET)))
