"""Checks of messages before they are sent: the server could only end the connection."""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from app.contracts.errors import (
    Fault,
    FaultyInputError,
    FlowError,
    InvalidPayloadError,
    InvalidRequestError,
    PayloadTooLargeError,
)
from realtime.client.errors import FlowClientError

MAX_DEPTH = 32
"""Levels of a payload, as on the server."""
MAX_FAULTS = 100
MAX_INTEGER_BITS = 1024
"""No JSON reader accepts longer integers. The server checks shorter ones."""
DEFAULT_MESSAGE_BYTES = 1_048_576
"""The limit of a server that announces none."""
MAX_MESSAGE_BYTES = 2_097_152
"""The largest limit that a server can be configured with."""
FRAME_BYTES = 32
"""Bytes around a message: the packet type, the id of its ack, brackets."""

_BINARY = (bytes, bytearray, memoryview)


class _Handshake(msgspec.Struct, rename="camel"):
    max_payload: int = DEFAULT_MESSAGE_BYTES


def announced_limit(packet: object) -> int:
    """Return the largest message in bytes that the server accepts, from its first packet."""
    try:
        return msgspec.json.decode(str(packet)[1:], type=_Handshake).max_payload
    except msgspec.DecodeError:
        return DEFAULT_MESSAGE_BYTES


def checked(body: dict[str, Any]) -> dict[str, Any]:
    """Copy a message as plain JSON values.

    Raises:
        FlowClientError: A value is not JSON: INVALID_PAYLOAD, or INVALID_REQUEST outside of the payload.
            ``details`` has every fault, as the server would list them.
    """
    try:
        plain: dict[str, Any] = msgspec.to_builtins(body, builtin_types=_BINARY, str_keys=True)
    except RecursionError:
        raise _refusal([Fault("/payload", f"is nested deeper than {MAX_DEPTH} levels")]) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise _refusal([Fault("/payload", f"cannot be sent as JSON: {error}")]) from None
    faults = list(islice(_faults(plain, "", 0), MAX_FAULTS))
    if faults:
        raise _refusal(faults)
    return plain


def check_size(event: str, body: dict[str, Any], max_bytes: int) -> None:
    """Check the size of a message.

    Raises:
        FlowClientError: It has more than ``max_bytes`` (PAYLOAD_TOO_LARGE).
    """
    if len(msgspec.json.encode([event, body])) + FRAME_BYTES > max_bytes:
        raise _as_client_error(PayloadTooLargeError("message", max_bytes))


def _refusal(faults: list[Fault]) -> FlowClientError:
    of_payload = any(fault.pointer.startswith("/payload") for fault in faults)
    kind: type[FaultyInputError] = InvalidPayloadError if of_payload else InvalidRequestError
    return _as_client_error(kind(faults))


def _as_client_error(error: FlowError) -> FlowClientError:
    return FlowClientError(error.code, error.message, error.retryable, error.details)


def _faults(value: Any, pointer: str, depth: int) -> Iterator[Fault]:
    if isinstance(value, dict | list | tuple):
        if depth > MAX_DEPTH:
            yield Fault(pointer, f"is nested deeper than {MAX_DEPTH} levels")
            return
        for key, member in value.items() if isinstance(value, dict) else enumerate(value):
            name = str(key)
            if _is_unicode(name):
                segment = name.replace("~", "~0").replace("/", "~1")
                yield from _faults(member, f"{pointer}/{segment}", depth + 1)
            else:
                yield Fault(pointer, "a name must be Unicode text without lone surrogates")
    elif isinstance(value, _BINARY):
        yield Fault(pointer, f"{type(value).__name__} is not a JSON value; send text, such as base64")
    elif isinstance(value, str):
        if not _is_unicode(value):
            yield Fault(pointer, "text must be Unicode without lone surrogates")
    elif isinstance(value, float) and not math.isfinite(value):
        yield Fault(pointer, "a number must be finite")
    elif isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        yield Fault(pointer, "an integer must fit 64 bits")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
