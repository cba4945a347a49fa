"""The payload of a state: its bounds, and how commands edit it."""

import msgspec
from msgspec import UNSET, UnsetType

from app.contracts.commands import SetCommand, TransitionCommand
from app.contracts.errors import InvalidPayloadError, PayloadTooLargeError
from app.contracts.state import Payload
from app.flow.values.removal import without
from app.flow.values.storable_json import storage_errors


def require_storable(given: Payload) -> None:
    """Raise InvalidPayloadError, with every fault, unless ``given`` can be stored without loss."""
    faults = storage_errors(given, "/payload")
    if faults:
        raise InvalidPayloadError(faults)


def check_size(whole: Payload, limit: int) -> None:
    """Raise PayloadTooLargeError if the whole payload of a state is more than ``limit`` bytes of JSON."""
    if len(msgspec.json.encode(whole)) > limit:
        raise PayloadTooLargeError("payload of the state", limit)


def edit_payload(
    present: Payload | UnsetType, command: TransitionCommand | SetCommand
) -> Payload | UnsetType:
    """Remove members from the payload, then merge the given one into it."""
    if command.remove is not UNSET and present is not UNSET:
        present = without(present, command.remove)
    if command.payload is UNSET:
        return present
    return command.payload if present is UNSET else {**present, **command.payload}
