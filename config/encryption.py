"""The keys that wrap the data keys of stored data (docs/operations/encryption.md)."""

import binascii
import re
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Sequence
from importlib.util import find_spec
from secrets import token_bytes
from typing import NamedTuple

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings

KEY_BYTES = 32
MAX_KEYS = 100
KEY_SERVICES = {
    "awskms": (re.compile(r"[A-Za-z0-9:/_-]{1,2048}"), "a key id, an ARN, or alias/NAME"),
    "gcpkms": (
        re.compile(r"projects/[^/\s]+/locations/[^/\s]+/keyRings/[^/\s]+/cryptoKeys/[^/\s]+"),
        "projects/P/locations/L/keyRings/R/cryptoKeys/K",
    ),
    "vault": (
        re.compile(
            r"(https://[^/\s?#@]+|http://(127\.0\.0\.1|localhost)(:[0-9]+)?)/v1/[^\s?#]+/keys/[^/\s?#]+"
        ),
        "the address of a transit key, https://HOST/v1/transit/keys/NAME",
    ),
}
"""The forms of keys in key services."""
_LIBRARIES = {"awskms": ("boto3",), "gcpkms": ("google", "google.auth", "requests")}
_RULE = "create one with: server-flow keys generate"


class WrappingKeySetting(NamedTuple):
    """A wrapping key: its bytes, or the name that it has in a key service.

    ``kind`` is ``local`` or one of ``KEY_SERVICES``.
    """

    kind: str
    key: bytes = b""
    name: str = ""


class EncryptionSettings(BaseSettings):
    """The settings of the encryption of stored data."""

    encryption_keys: SecretStr | None = None
    encryption_required: bool = False

    @field_validator("encryption_keys")
    @classmethod
    def _usable_wrapping_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_wrapping_keys(value.get_secret_value())
        return value

    @property
    def wrapping_keys(self) -> tuple[WrappingKeySetting, ...]:
        """The wrapping keys, the one that wraps first; none: stored data is not encrypted."""
        value = self.encryption_keys
        return () if value is None else parse_wrapping_keys(value.get_secret_value())

    def encryption_keys_with(self, further: Sequence[str]) -> str:
        """Return the keys of the setting, followed by those of ``further`` that it lacks."""
        entries = [] if self.encryption_keys is None else [self.encryption_keys.get_secret_value()]
        entries += [entry for entry in further if not {*parse_wrapping_keys(entry)} & {*self.wrapping_keys}]
        return ",".join(entries)


def parse_wrapping_keys(text: str) -> tuple[WrappingKeySetting, ...]:
    """Read wrapping keys that are separated by commas.

    Raises:
        ValueError: Names every fault by the number of its entry; nothing of an entry is repeated.
    """
    entries = [entry.strip() for entry in text.split(",")]
    if len(entries) > MAX_KEYS:
        raise ValueError(f"must have at most {MAX_KEYS} keys")
    found: list[WrappingKeySetting] = []
    faults: list[str] = []
    for number, entry in enumerate(entries, 1):
        try:
            key = _wrapping_key(entry)
        except ValueError as refusal:
            faults.append(f"entry {number} {refusal}")
            continue
        if key in found:
            faults.append(f"entry {number} repeats an earlier one")
        found.append(key)
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(found)


def _wrapping_key(entry: str) -> WrappingKeySetting:
    kind, colon, name = entry.partition(":")
    if not entry:
        raise ValueError(f"is empty: {_RULE}")
    if colon and kind == "local":
        raise ValueError(f"is the id of a key, not a key: {_RULE}")
    if colon and kind not in KEY_SERVICES:
        services = ", ".join(f"{service}:" for service in KEY_SERVICES)
        raise ValueError(f"begins with no known key service ({services})")
    if colon:
        return _service_key(kind, name)
    padded = entry.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        key = b64decode(padded + "=" * (-len(padded) % 4), validate=True)
    except binascii.Error:
        raise ValueError(f"is not {KEY_BYTES} bytes in base64: {_RULE}") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"is {len(key)} bytes in base64, not {KEY_BYTES}: {_RULE}")
    return WrappingKeySetting("local", key=key)


def _service_key(kind: str, name: str) -> WrappingKeySetting:
    form, example = KEY_SERVICES[kind]
    if not form.fullmatch(name):
        raise ValueError(f"must be {kind}: and {example}")
    if not all(find_spec(library) for library in _LIBRARIES.get(kind, ())):
        raise ValueError(f"names a key in {kind}, which needs: pip install 'server-flow[kms]'")
    return WrappingKeySetting(kind, name=name)


def create_wrapping_key() -> str:
    """Return a new entry of FLOW_ENCRYPTION_KEYS."""
    return urlsafe_b64encode(token_bytes(KEY_BYTES)).decode()
