"""The keys that wrap the data keys of stored data (docs/operations/encryption.md)."""

import binascii
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Sequence
from secrets import token_bytes
from typing import NamedTuple

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings

KEY_BYTES = 32
MAX_KEYS = 100
KEY_SERVICES = ("awskms", "gcpkms", "vault")
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
    kind, colon, _ = entry.partition(":")
    if not entry:
        raise ValueError(f"is empty: {_RULE}")
    if colon and kind == "local":
        raise ValueError(f"is the id of a key, not a key: {_RULE}")
    if colon and kind not in KEY_SERVICES:
        services = ", ".join(f"{service}:" for service in KEY_SERVICES)
        raise ValueError(f"begins with no known key service ({services})")
    if colon:
        raise ValueError(f"names a key in {kind}: key services are not in this version")
    padded = entry.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        key = b64decode(padded + "=" * (-len(padded) % 4), validate=True)
    except binascii.Error:
        raise ValueError(f"is not {KEY_BYTES} bytes in base64: {_RULE}") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"is {len(key)} bytes in base64, not {KEY_BYTES}: {_RULE}")
    return WrappingKeySetting("local", key=key)


def create_wrapping_key() -> str:
    """Return a new entry of FLOW_ENCRYPTION_KEYS."""
    return urlsafe_b64encode(token_bytes(KEY_BYTES)).decode()
