"""Signatures of webhooks after Standard Webhooks 1.0: HMAC-SHA256 over ``id.timestamp.body``."""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"
SECRET_PREFIX = "whsec_"  # noqa: S105 - the beginning of every secret
MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64
TOLERANCE_SECONDS = 300
MAX_SIGNATURES = 32
_ID = re.compile(r"[\x21-\x2d\x2f-\x7e]{1,256}\Z")
"""Visible ASCII without a dot, which separates the parts that are signed."""
_TIMESTAMP = re.compile(r"[0-9]{1,20}\Z")


class SecretError(ValueError):
    """A text is not a secret of Standard Webhooks."""


SignatureReason = Literal[
    "missing_header", "invalid_header", "unknown_version", "no_match", "too_old", "too_new"
]


class SignatureFault(Struct, frozen=True):
    """The reason why a signature is refused, and a sentence about it."""

    reason: SignatureReason
    text: str


def decode_secret(secret: str) -> bytes:
    """Return the key of a secret: ``whsec_`` and base64 of 24 to 64 bytes, with or without padding.

    Raises:
        SecretError: The text has another form. Its message does not contain the text.
    """
    encoded = secret.strip()
    if encoded.startswith(("whsk_", "whpk_")):
        raise SecretError("the secret is a key of the asymmetric form, which is not in use here")
    if not encoded.startswith(SECRET_PREFIX):
        raise SecretError("the secret must begin with whsec_")
    encoded = encoded.removeprefix(SECRET_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise SecretError("the secret must be whsec_ and base64: it is cut off, or altered") from None
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise SecretError(
            f"the secret must have {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes, and has {len(key)}"
        )
    return key


def sign(key: bytes, event_id: str, timestamp: int, body: bytes) -> str:
    """Return the signature of a body, ``v1,`` and base64.

    Args:
        key: A decoded secret.
        event_id: The id of the event.
        timestamp: The time of the attempt, in seconds since 1970.
        body: The body, exactly as it is sent.

    Raises:
        ValueError: The id has characters that cannot be signed safely, such as a dot.
    """
    if not _ID.match(event_id):
        raise ValueError("the id of an event must be visible ASCII without a dot")
    return f"v1,{base64.b64encode(_digest(key, event_id, str(timestamp), body)).decode()}"


def signature_headers(keys: Sequence[bytes], event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a signed request: one signature for each key, in their order."""
    return {
        ID_HEADER: event_id,
        TIMESTAMP_HEADER: str(timestamp),
        SIGNATURE_HEADER: " ".join(sign(key, event_id, timestamp, body) for key in keys),
    }


def verify(
    keys: Sequence[bytes],
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    tolerance_seconds: float | None = TOLERANCE_SECONDS,
) -> SignatureFault | None:
    """Return why a request is refused, None if it is valid. The time depends on no secret.

    The signature is compared before the age: that of an old request may be right.

    Args:
        keys: Decoded secrets, one of which must have signed the request.
        headers: The headers of the request, with lower-case names.
        body: The body, exactly as it was received.
        now: The present time, in seconds since 1970.
        tolerance_seconds: The largest difference between the time of the request and ``now``; None: any.
    """
    missing = [
        name for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER) if not headers.get(name, "").strip()
    ]
    if missing:
        return SignatureFault("missing_header", f"the request has no {' and no '.join(missing)}")
    event_id, timestamp, signatures = (
        headers[name].strip() for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)
    )
    if not _TIMESTAMP.match(timestamp):
        return SignatureFault(
            "invalid_header", f"{TIMESTAMP_HEADER} must be a whole number of seconds since 1970"
        )
    given = _read_signatures(signatures)
    if isinstance(given, SignatureFault):
        return given
    if not _matches(keys, event_id, timestamp, body, given):
        return SignatureFault("no_match", f"no signature in {SIGNATURE_HEADER} matches the body")
    return _age_fault(int(timestamp), now, tolerance_seconds)


def _read_signatures(text: str) -> list[bytes] | SignatureFault:
    """Return the signatures of version 1 in a header, or its fault."""
    parts = text.split()
    if len(parts) > MAX_SIGNATURES:
        return SignatureFault(
            "invalid_header", f"{SIGNATURE_HEADER} has more than {MAX_SIGNATURES} signatures"
        )
    versions = [part.partition(",")[0] for part in parts if "," in part]
    if len(versions) < len(parts):
        return SignatureFault(
            "invalid_header",
            f"{SIGNATURE_HEADER} must be 'v1,' and base64, several separated by spaces; it has no comma",
        )
    if "v1" not in versions:
        hint = "; v1a is the asymmetric form, which has no whsec_ secret" if "v1a" in versions else ""
        return SignatureFault("unknown_version", f"{SIGNATURE_HEADER} has no signature of version v1{hint}")
    try:
        return [
            base64.b64decode(part.removeprefix("v1,"), validate=True)
            for part in parts
            if part.startswith("v1,")
        ]
    except (binascii.Error, ValueError):
        return SignatureFault("invalid_header", f"{SIGNATURE_HEADER} has a signature that is not base64")


def _matches(
    keys: Sequence[bytes], event_id: str, timestamp: str, body: bytes, given: Sequence[bytes]
) -> bool:
    """Compare all signatures with all keys; the time does not show which one matches."""
    found = False
    for key in keys:
        expected = _digest(key, event_id, timestamp, body)
        for signature in given:
            found |= hmac.compare_digest(expected, signature)
    return found


def _age_fault(timestamp: int, now: float, tolerance_seconds: float | None) -> SignatureFault | None:
    age = now - timestamp
    if tolerance_seconds is None or abs(age) <= tolerance_seconds:
        return None
    reason: SignatureReason = "too_old" if age > 0 else "too_new"
    side = "before" if age > 0 else "after"
    return SignatureFault(
        reason,
        f"{TIMESTAMP_HEADER} is {reason.replace('_', ' ')}: {abs(age):.0f} seconds {side} the clock of this "
        f"machine, and at most {tolerance_seconds:.0f} are accepted",
    )


def _digest(key: bytes, event_id: str, timestamp: str, body: bytes) -> bytes:
    signed = f"{event_id}.{timestamp}.".encode(errors="surrogatepass") + body
    return hmac.new(key, signed, hashlib.sha256).digest()
