"""Sets of public keys (JWKS, RFC 7517): which of their keys can verify tokens here."""

import hashlib
from collections.abc import Collection
from typing import Any

import jwt
import msgspec
from msgspec import Struct

from app.contracts.errors import SigningKeysError

MAX_KEYS = 100
MAX_KEY_ID_CHARACTERS = 256
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
"""Larger keys take too much CPU for each token."""
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_BY_TYPE = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""Algorithms by key type and curve. Shared secrets ("oct") have no place in a public document."""
ASYMMETRIC = frozenset(name for names in _BY_TYPE.values() for name in names)


class KeySet(Struct, frozen=True):
    """The keys for verifying tokens, by key id and algorithm.

    ``algorithms`` are those that tokens may have. ``digest`` changes when a key or an algorithm does.
    ``unusable`` counts the keys of the document that cannot verify tokens.
    """

    keys: dict[str, dict[str, Any]]
    algorithms: frozenset[str]
    digest: str
    unusable: int


def read_key_set(raw: bytes, algorithms: Collection[str]) -> KeySet:
    """Read a document of keys.

    A key is used with the algorithm in its ``alg``, or else with those for its type, as far as they are in
    ``algorithms``. Of two keys with the same id for the same algorithm the first is used.

    Raises:
        SigningKeysError: It has no usable key.
    """
    keys: dict[str, dict[str, Any]] = {}
    used = []
    listed = _listed(raw)
    for each in listed:
        found = _key_of(each)
        names = [name for name in _algorithms_of(each) if name in algorithms] if found is not None else []
        if names:
            used.append([each, names])
        for name in names:
            keys.setdefault(each["kid"], {}).setdefault(name, found)
    if not keys:
        raise SigningKeysError("its document has no key that can be used")
    digest = hashlib.sha256(msgspec.json.encode(used, order="sorted")).hexdigest()
    return KeySet(keys, frozenset(algorithms), digest, len(listed) - len(used))


def read_object(raw: bytes) -> dict[str, Any]:
    """Read a JSON object. Raises SigningKeysError."""
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SigningKeysError("its document is not a JSON object")
    return found


def _listed(raw: bytes) -> list[Any]:
    listed = read_object(raw).get("keys")
    if not isinstance(listed, list):
        raise SigningKeysError("its document has no list of keys")
    if len(listed) > MAX_KEYS:
        raise SigningKeysError(f"its document has more than {MAX_KEYS} keys")
    return listed


def _algorithms_of(key: dict[str, Any]) -> tuple[str, ...]:
    possible = _BY_TYPE[_type_of(key)]
    declared = key.get("alg")
    if declared is None:
        return possible
    if declared == "Ed25519":  # RFC 9864, which names the curve; tokens may still have the older name
        declared = "EdDSA"
    return (declared,) if declared in possible else ()


def _type_of(key: dict[str, Any]) -> tuple[Any, Any]:
    return key.get("kty"), None if key.get("kty") == "RSA" else key.get("crv")


def _key_of(key: Any) -> Any | None:
    """Return the public key of a member of the document, None if it is not for verifying tokens."""
    if not isinstance(key, dict) or "d" in key:  # "d": a private key that was published must not be used
        return None
    kind, curve = _type_of(key)
    key_id, operations = key.get("kid"), key.get("key_ops")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID_CHARACTERS:
        return None
    if not isinstance(kind, str) or not isinstance(curve, str | None) or (kind, curve) not in _BY_TYPE:
        return None
    if key.get("use", "sig") != "sig":
        return None
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return None
    try:
        found = jwt.PyJWK(key, _BY_TYPE[kind, curve][0]).key
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, OverflowError):
        return None
    if kind == "RSA" and not MIN_RSA_BITS <= found.key_size <= MAX_RSA_BITS:
        return None
    return found
