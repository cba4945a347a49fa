"""Bounds of the payload that a state can store."""

import msgspec

from app.contracts.errors import InvalidPayloadError, PayloadTooLargeError
from app.contracts.state import Payload
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
