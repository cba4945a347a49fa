"""Bounds what may be kept as payload."""

import msgspec

from app.contracts.errors import InvalidPayloadError, PayloadTooLargeError
from app.contracts.state import Payload
from app.flow.jsonable import unkeepable


def check_payload(given: Payload, whole: Payload, limit: int) -> None:
    """Raise unless ``given`` can be kept and read back exactly, and the state's ``whole`` payload
    with it is at most ``limit`` bytes of JSON."""
    faults = unkeepable(given, "/payload")
    if faults:
        raise InvalidPayloadError(faults)
    if len(msgspec.json.encode(whole)) > limit:
        raise PayloadTooLargeError("payload of the state", limit)
