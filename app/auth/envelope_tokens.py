"""Envelope tokens of the base system: ``authorization: ED25519-BASIC-TOKEN <envelope>``.

An envelope is the JSON object ``{t, msg, dt, ttl, sig}`` in base64url without padding. ``msg`` is an Auth
record as JSON in base64; ``sig`` signs the canonical JSON (RFC 8785) of the other four members with Ed25519.
"""

import binascii
import json
import re
import time
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.auth.policy import granted_scopes
from app.contracts.callers import SERVICE, SERVICE_USER, Caller
from app.contracts.errors import AuthenticationRequiredError
from app.contracts.identifiers import is_id

TYPE = "ed25519-basic-token"
"""The type of envelopes that authorise requests. The same keys sign others, such as challenges."""
MAX_ENVELOPE_CHARACTERS = 16_384
MAX_WORDS = 256
"""Limit of scopes, of groups, and of permissions."""
MAX_WORD_CHARACTERS = 256
GUEST_ID = "__guest"
"""The id that all visitors without an account have."""
_MAX_INTEGER = 2**53 - 1
_MEMBERS = {"t", "msg", "dt", "ttl", "sig"}
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+\Z")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?Z\Z", re.ASCII)
_SIGNATURE_BYTES = 64
_ROLES = frozenset(["guest", "user", "service", "system", "admin", "superuser"])
_PROGRAM_ROLES = frozenset(["service", "system"])
_FORMAT = "The token is not an envelope token"
_OTHER_TYPE = "The token is not one that authorises requests"
_EXPIRED = "The token has expired; get a new one"


class EnvelopeVerifier:
    """Verifies envelope tokens with trusted public keys.

    Args:
        keys: Public keys of 32 bytes.
        leeway_seconds: Tolerated difference of clocks.
        max_age: The time after which every token has expired. Without it one without any expiry is refused.
    """

    def __init__(
        self, keys: Sequence[bytes], *, leeway_seconds: float = 5.0, max_age: timedelta | None = None
    ) -> None:
        self._keys = [Ed25519PublicKey.from_public_bytes(key) for key in keys]
        self._leeway = leeway_seconds
        self._max_age = max_age

    def verify(self, envelope: str) -> Caller:
        """Return the caller that an envelope names, with the last moment of its validity.

        Raises:
            AuthenticationRequiredError: The envelope is refused; the message does not repeat any of it.
        """
        members = _read_envelope(envelope)
        if members["t"] != TYPE:
            _refuse(_OTHER_TYPE, "claim")
        content = _decode_standard(members["msg"])
        self._check_signature(members)
        auth = _read_object(content)
        return _caller(auth, self._last_moment(members, auth))

    def _check_signature(self, members: dict[str, Any]) -> None:
        signature = _decode_url(members["sig"])
        if len(signature) != _SIGNATURE_BYTES:
            _refuse(_FORMAT, "format")
        signed = signed_bytes(members)
        for key in self._keys:
            try:
                key.verify(signature, signed)
            except InvalidSignature:
                continue
            return
        _refuse("The token's signature does not match a key of this service", "signature")

    def _last_moment(self, members: dict[str, Any], auth: dict[str, Any]) -> float:
        """Return the last moment of a token that is valid now, in seconds since 1970."""
        made = members["dt"] / 1000
        now = time.time()
        if made > now + self._leeway:
            _refuse("The token is not valid yet", "time")
        ends: list[float] = []
        if members["ttl"] is not None:
            ends.append(made + members["ttl"] / 1000)
        if auth.get("expiresAt") is not None:
            ends.append(_read_time(auth["expiresAt"]))
        if self._max_age is not None:
            ends.append(made + self._max_age.total_seconds())
        if not ends:
            _refuse("The token has no expiry; its issuer must set one", "claim")
        last = min(ends) + self._leeway
        if last <= now:
            _refuse(_EXPIRED, "time")
        return last


def signed_bytes(members: dict[str, Any]) -> bytes:
    """Return the canonical JSON (RFC 8785) of an envelope without its signature.

    Its members are texts, integers that a double has exactly, and null. For these Python writes what RFC 8785
    says; the names are ASCII, so that their order is the same in any encoding. The caller has checked ``t``
    and ``msg``, so that they have no lone surrogates.
    """
    signed = {name: value for name, value in members.items() if name != "sig"}
    return json.dumps(signed, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _read_envelope(text: str) -> dict[str, Any]:
    if len(text) > MAX_ENVELOPE_CHARACTERS:
        _refuse(f"The token is longer than {MAX_ENVELOPE_CHARACTERS} characters", "format")
    members = _read_object(_decode_url(text))
    if set(members) != _MEMBERS or not all(isinstance(members[name], str) for name in ("t", "msg", "sig")):
        _refuse(_FORMAT, "format")
    if not _is_count(members["dt"]) or not (members["ttl"] is None or _is_count(members["ttl"])):
        _refuse(_FORMAT, "format")
    return members


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_INTEGER


def _decode_url(text: str) -> bytes:
    """Decode base64url without padding, in its one canonical form."""
    if not _BASE64URL.match(text) or len(text) % 4 == 1:
        _refuse(_FORMAT, "format")
    found = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if urlsafe_b64encode(found).rstrip(b"=").decode() != text:
        _refuse(_FORMAT, "format")
    return found


def _decode_standard(text: str) -> bytes:
    """Decode base64 with padding, in its one canonical form."""
    try:
        found = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        _refuse(_FORMAT, "format")
    if b64encode(found).decode() != text:
        _refuse(_FORMAT, "format")
    return found


def _read_object(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        _refuse(_FORMAT, "format")
    if not isinstance(found, dict):
        _refuse(_FORMAT, "format")
    return found


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that has a member twice: of those, programs read different ones."""
    found = dict(members)
    if len(found) < len(members):
        raise ValueError("a member is there twice")
    return found


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("not JSON")


def _read_time(value: object) -> float:
    """Read a date as JavaScript writes it in JSON, such as ``2026-01-02T03:04:05.678Z``."""
    try:
        if not isinstance(value, str) or not _TIME.match(value):
            raise ValueError("it has another form")
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError):
        _refuse("The token's 'expiresAt' is not a time", "claim")


def _caller(auth: dict[str, Any], last: float) -> Caller:
    """Read the caller from a verified Auth record."""
    user, role, is_user = auth.get("userId"), auth.get("role"), auth.get("isUser")
    if auth.get("type") != TYPE:
        _refuse(_OTHER_TYPE, "claim")
    if not isinstance(user, str) or not is_id(user) or user == GUEST_ID or user.startswith(SERVICE_USER):
        _refuse("The token's 'userId' cannot name a user", "claim")
    if role == "blocked":
        _refuse("The user of this token is blocked", "claim")
    if not isinstance(role, str) or role not in _ROLES or not isinstance(is_user, bool):
        _refuse("The token's 'role' or 'isUser' is not valid", "claim")
    if auth.get("scopes") is None:
        _refuse("The token's 'scopes' must be a list of texts", "claim")
    scopes = set(_words(auth, "scopes"))
    if role in _PROGRAM_ROLES and not is_user:
        scopes.add(SERVICE)
    roles = {role, *_permissions(auth.get("permissions"))}
    groups = frozenset(filter(is_id, _words(auth, "groups")))
    return Caller(user, roles=frozenset(roles), scopes=granted_scopes(scopes), expires_at=last, groups=groups)


def _words(auth: dict[str, Any], name: str) -> list[str]:
    words = auth.get(name)
    if words is None:
        return []
    if not isinstance(words, list) or len(words) > MAX_WORDS or not all(map(_is_word, words)):
        _refuse(f"The token's '{name}' must be a list of texts", "claim")
    return words


def _is_word(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_WORD_CHARACTERS


def _permissions(sets: object) -> list[str]:
    """Return the roles ``<scope>:<permission>`` of permissions that are granted for all resources.

    One for some resources only grants nothing here, as no transition names a resource.
    """
    if sets is None:
        return []
    if not isinstance(sets, list) or len(sets) > MAX_WORDS:
        _refuse("The token's 'permissions' are not valid", "claim")
    found = []
    for each in sets:
        granted = each.get("permissions") if isinstance(each, dict) else None
        if not isinstance(granted, dict) or not _is_word(each.get("scope")) or len(granted) > MAX_WORDS:
            _refuse("The token's 'permissions' are not valid", "claim")
        if each.get("resources") is None:
            found += [f"{each['scope']}:{name}" for name, value in granted.items() if value is True]
    return found


def _refuse(message: str, reason: str) -> NoReturn:
    raise AuthenticationRequiredError(message, reason=reason)
