"""Wrapping keys, which wrap the data keys that are stored."""

from collections.abc import Collection, Sequence
from hashlib import sha256
from os import urandom

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.contracts.ports.keys import WrappingKey

NONCE_BYTES = 12
_ID_CONTEXT = b"server-flow wrapping key\0"
_OWNER_CONTEXT = b"server-flow data key\0"


def local_key_id(key: bytes) -> str:
    """Return the id of a wrapping key, which reveals nothing of the key."""
    return f"local:{sha256(_ID_CONTEXT + key).hexdigest()[:16]}"


class LocalKey:
    """The WrappingKey port with a key of this process: AES-256-GCM, bound to the owner.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self.id = local_key_id(key)
        self._key = AESGCM(key)

    async def wrap(self, key: bytes, owner: str) -> bytes:
        """Wrap a data key; it unwraps only for the same owner."""
        nonce = urandom(NONCE_BYTES)
        return nonce + self._key.encrypt(nonce, key, _OWNER_CONTEXT + owner.encode())

    async def unwrap(self, wrapped: bytes, owner: str) -> bytes:
        """Return a data key. Raises ValueError: it was changed, or belongs to another owner."""
        context = _OWNER_CONTEXT + owner.encode()
        try:
            return self._key.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], context)
        except (InvalidTag, ValueError):  # the other one: too short for a nonce
            raise ValueError("the wrapped key was changed, or belongs to another owner") from None


class WrappingKeys:
    """The KeyWrapping port over one or more wrapping keys; the first one wraps, all of them unwrap."""

    def __init__(self, keys: Sequence[WrappingKey]) -> None:
        self._keys = {key.id: key for key in keys}
        self._first = keys[0]

    @property
    def current(self) -> str:
        """The id of the key that wraps."""
        return self._first.id

    @property
    def known(self) -> Collection[str]:
        """The ids of the keys that unwrap."""
        return self._keys.keys()

    async def wrap(self, key: bytes, owner: str) -> bytes:
        """Wrap a data key with the current key. Raises KeyServiceUnavailableError."""
        return await self._first.wrap(key, owner)

    async def unwrap(self, wrapped: bytes, wrapped_by: str, owner: str) -> bytes:
        """Return a data key.

        Raises:
            LookupError: ``wrapped_by`` is not one of the keys.
            ValueError: The wrapped key was changed, or belongs to another owner.
            KeyServiceUnavailableError: The key management service does not respond.
        """
        return await self._keys[wrapped_by].unwrap(wrapped, owner)


class LocalKeys(WrappingKeys):
    """Wrapping keys of this process.

    Args:
        keys: Keys of 32 bytes.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        super().__init__([LocalKey(key) for key in keys])
