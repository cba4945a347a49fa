"""The payload of a state: its bounds, and how commands edit it."""

import msgspec
from msgspec import UNSET, UnsetType

from app.contracts.commands import SetCommand, TransitionCommand
from app.contracts.errors import InvalidPayloadError, PayloadTooLargeError
from app.contracts.state import Payload
from app.flow.values.masking import Mask
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
    present: Payload | UnsetType, command: TransitionCommand | SetCommand, mask: Mask | None = None
) -> Payload | UnsetType:
    """Remove members from the payload, then merge the given one into it.

    ``mask`` hides parts of the payload from the caller: those in members that it sends remain.
    """
    if command.remove is not UNSET and present is not UNSET:
        present = without(present, command.remove)
    if command.payload is UNSET:
        return present
    if present is UNSET:
        return command.payload
    sent = command.payload if mask is None else mask.restore(command.payload, present)
    return {**present, **sent}
