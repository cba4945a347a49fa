"""Explanations of webhooks whose signature does not match, for their developers."""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from app.outbound.webhook_signatures import (
    ID_HEADER,
    TIMESTAMP_HEADER,
    SignatureFault,
    verify,
)

_RAW_BODY = "Verify the bytes of the body as they were received, before anything parses or formats them."
_MILLISECONDS = 10**11
"""Times from here on, in seconds, are further away than the year 5000."""


def explain(
    fault: SignatureFault, keys: Sequence[bytes], headers: Mapping[str, str], body: bytes
) -> list[str]:
    """Return sentences that say what may have caused a fault, the most certain ones first.

    Args:
        fault: The fault that ``verify`` found.
        keys: Decoded secrets.
        headers: The headers of the request, with lower-case names.
        body: The body.
    """
    match fault.reason:
        case "no_match":
            return _explain_mismatch(keys, headers, body)
        case "too_new" if int(headers[TIMESTAMP_HEADER]) >= _MILLISECONDS:
            return [f"The signature is right, but {TIMESTAMP_HEADER} is in milliseconds instead of seconds."]
        case "too_old" | "too_new":
            return [
                "The signature is right. Check the clock of this machine (NTP).",
                "Or the request was recorded earlier: --any-age accepts it.",
            ]
        case "missing_header":
            return ["A proxy may have removed headers, or the request is not one of this service."]
    return []


def _explain_mismatch(keys: Sequence[bytes], headers: Mapping[str, str], body: bytes) -> list[str]:
    for cause, original in _originals(body):
        if original != body and verify(keys, headers, original, 0.0, None) is None:
            return [f"The secret is right, but the body was altered: {cause}.", _RAW_BODY]
    if not body:
        return ["The body is empty: it was probably read before.", _RAW_BODY]
    value = _decoded(body)
    named = value.get("id") if isinstance(value, dict) else None
    event_id = headers[ID_HEADER].strip()
    if isinstance(named, str) and named != event_id:
        return [f"The headers are those of another event: the body has the id {named}, not {event_id}."]
    found = [
        "The secret may be that of another service, or one from before the last rotation.",
        "Or the body, webhook-id or webhook-timestamp is not what was sent.",
        _RAW_BODY,
    ]
    if value is None:
        found.insert(0, "The body is not JSON, as every event of this service is: it was altered or cut off.")
    return found


def _originals(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what a body may have been before a frequent mistake, with the mistake."""
    yield "there is whitespace at its end, such as the newline of an editor or of echo", body.rstrip()
    yield "the whitespace around it was removed or added", body.strip()
    yield "a newline at its end was removed", body + b"\n"
    yield "its line ends were changed to CR LF", body.replace(b"\r\n", b"\n")
    yield "it begins with a byte order mark", body.removeprefix(b"\xef\xbb\xbf")
    reserialised = "its JSON was parsed and written again, with other spaces or escapes"
    value = _decoded(body)
    if value is not None:
        yield reserialised, msgspec.json.encode(value)
        try:
            yield reserialised, json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        except ValueError:  # surrogates
            return
    if isinstance(value, str):
        yield "it was written as a JSON string", value.encode()
    try:
        yield "it is in base64, as some gateways pass bodies on", base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return


def _decoded(body: bytes) -> Any:
    """Return the JSON value of a body, None if it is none."""
    try:
        return msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None
