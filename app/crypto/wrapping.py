"""Wrapping keys from the settings, which wrap the data keys that are stored."""

from collections.abc import Collection, Sequence
from hashlib import sha256
from os import urandom

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
_ID_CONTEXT = b"server-flow wrapping key\0"
_OWNER_CONTEXT = b"server-flow data key\0"


def local_key_id(key: bytes) -> str:
    """Return the id of a wrapping key, which reveals nothing of the key."""
    return f"local:{sha256(_ID_CONTEXT + key).hexdigest()[:16]}"


class LocalKeys:
    """The KeyWrapping port with keys of this process: AES-256-GCM, bound to the owner.

    Args:
        keys: Keys of 32 bytes. The first one wraps, all of them unwrap.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {local_key_id(key): AESGCM(key) for key in keys}
        self._current = local_key_id(keys[0])

    @property
    def current(self) -> str:
        """The id of the key that wraps."""
        return self._current

    @property
    def known(self) -> Collection[str]:
        """The ids of the keys that unwrap."""
        return self._keys.keys()

    async def wrap(self, key: bytes, owner: str) -> bytes:
        """Wrap a data key with the current key; it unwraps only for the same owner."""
        nonce = urandom(NONCE_BYTES)
        return nonce + self._keys[self._current].encrypt(nonce, key, _OWNER_CONTEXT + owner.encode())

    async def unwrap(self, wrapped: bytes, wrapped_by: str, owner: str) -> bytes:
        """Return a data key.

        Raises:
            LookupError: ``wrapped_by`` is not one of the keys.
            ValueError: The wrapped key was changed, or belongs to another owner.
        """
        key = self._keys[wrapped_by]
        try:
            return key.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _OWNER_CONTEXT + owner.encode())
        except (InvalidTag, ValueError):  # the other one: too short for a nonce
            raise ValueError("the wrapped key was changed, or belongs to another owner") from None
