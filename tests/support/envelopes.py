"""Envelope tokens as the base system makes them, written from its description."""

import base64
import json
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
"""The test pair of the base system's description."""
PUBLIC_KEY = "ed25519:6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw="
TYPE = "ed25519-basic-token"


def auth(**changes: Any) -> dict[str, Any]:
    """Return an Auth record. A member that is None is left out."""
    whole = {
        "token": "challenge",
        "isUser": True,
        "createdAt": "2026-01-02T03:04:05.678Z",
        "type": TYPE,
        "role": "user",
        "userId": "ada",
        "scopes": ["*"],
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not None}


def envelope(content: Any, **changes: Any) -> dict[str, Any]:
    """Return an envelope for a content, without a signature. A content of bytes is used as it is."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    made = int(time.time() * 1000)
    return {"t": TYPE, "msg": base64.b64encode(raw).decode(), "dt": made, "ttl": 300_000, **changes}


def unpadded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(members: dict[str, Any], key: Ed25519PrivateKey = KEY) -> dict[str, Any]:
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {**members, "sig": unpadded(key.sign(canonical.encode()))}


def packed(members: dict[str, Any]) -> str:
    return unpadded(json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode())


def envelope_token(content: Any = None, key: Ed25519PrivateKey = KEY, **changes: Any) -> str:
    """Return an envelope token, of ``auth()`` by default."""
    return packed(signed(envelope(auth() if content is None else content, **changes), key))
