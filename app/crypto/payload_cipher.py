"""Seals and opens texts with AES-256-GCM, those that are looked up with AES-SIV (docs/decisions/0025).

A sealed text is a version byte, 8 bytes of the id of the data key, then

* version 1: a random nonce of 12 bytes, and the ciphertext of AES-256-GCM with its tag;
* version 2: the tag and the ciphertext of AES-SIV (RFC 5297), equal for equal texts of one place.

Its version, key id, field and document id are associated data, so that it opens nowhere else.
"""

from collections.abc import Sequence
from os import urandom

from cryptography.exceptions import InvalidTag

from app.contracts.ports.ciphers import PayloadText, SealedText, Unopened
from app.contracts.ports.keys import SERVICE_OWNER, user_owner
from app.crypto.data_keys import KEY_ID_BYTES, DataKey, DataKeys, KeyPlace

CONTENT = 1
COMPARABLE = 2
NONCE_BYTES = 12
_HEADER_BYTES = 1 + KEY_ID_BYTES
_VERSIONS = (CONTENT, COMPARABLE)
_MIN_BYTES = _HEADER_BYTES + 16
_CONTENT_VERSION = bytes([CONTENT])
_COMPARABLE_VERSION = bytes([COMPARABLE])


class AesPayloadCipher:
    """The PayloadCipher port with the data keys of a process.

    While the keys are in the cache, nothing is awaited.
    """

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys

    async def seal_many(self, texts: Sequence[PayloadText], *, fresh: bool = False) -> list[bytes]:
        """Return the sealed texts, in order.

        Args:
            texts: The texts.
            fresh: Read the data keys again.

        Raises:
            StoreUnavailableError: A data key cannot be read.
        """
        keys: dict[str | None, DataKey] = {}
        missing: dict[str, str | None] = {}
        for text in texts:
            user_id = text.user_id
            if user_id in keys:
                continue
            owner = SERVICE_OWNER if user_id is None else user_owner(user_id)
            key = None if fresh else self._keys.sealing_key(owner)
            if key is None:
                missing[owner] = user_id
            else:
                keys[user_id] = key
        if missing:
            for owner, key in (await self._keys.load_sealing(missing)).items():
                keys[missing[owner]] = key
        nonces = urandom(NONCE_BYTES * len(texts))  # a call of the system for all
        return [
            _seal(text, keys[text.user_id], nonces[at : at + NONCE_BYTES])
            for text, at in zip(texts, range(0, len(nonces), NONCE_BYTES), strict=True)
        ]

    async def open_many(self, texts: Sequence[SealedText]) -> list[str | Unopened]:
        """Return the original texts, in order, or why one has none any more.

        Raises:
            StoreUnavailableError: A data key cannot be read.
        """
        places: list[KeyPlace] = []
        keys: dict[KeyPlace, DataKey | Unopened] = {}
        missing: dict[KeyPlace, None] = {}
        for text in texts:
            owner = SERVICE_OWNER if text.user_id is None else user_owner(text.user_id)
            place = (owner, text.sealed[1:_HEADER_BYTES])
            places.append(place)
            if place in keys or place in missing or not _is_sealed(text.sealed):
                continue
            key = self._keys.opening_key(*place)
            if key is None:
                missing[place] = None
            else:
                keys[place] = key
        if missing:
            keys.update(await self._keys.load_opening(missing))
        return [_open(text, keys.get(place)) for text, place in zip(texts, places, strict=True)]

    async def seals_with(self, user_id: str, sealed: bytes) -> bool:
        """Read the keys of a user again; return whether a new text is sealed with the key of ``sealed``.

        Raises:
            StoreUnavailableError: The keys cannot be read.
        """
        owner = user_owner(user_id)
        return (await self._keys.load_sealing([owner]))[owner].id == sealed[1:_HEADER_BYTES]


def _is_sealed(sealed: bytes) -> bool:
    return len(sealed) >= _MIN_BYTES and sealed[0] in _VERSIONS


def _context(header: bytes, field: str, document_id: str) -> bytes:
    """Return the associated data. The length of the field separates it from the document id."""
    name = field.encode()
    return b"%b%b%b%b" % (header, len(name).to_bytes(2, "big"), name, document_id.encode())


def _seal(text: PayloadText, key: DataKey, nonce: bytes) -> bytes:
    data = text.text.encode()
    if text.comparable:
        header = _COMPARABLE_VERSION + key.id
        return header + key.comparable.encrypt(data, [_context(header, text.field, text.document_id)])
    header = _CONTENT_VERSION + key.id
    context = _context(header, text.field, text.document_id)
    return header + nonce + key.content.encrypt(nonce, data, context)


def _open(text: SealedText, key: DataKey | Unopened | None) -> str | Unopened:
    sealed = text.sealed
    if key is None or not _is_sealed(sealed):
        return Unopened.DAMAGED
    if isinstance(key, Unopened):
        return key
    context = _context(sealed[:_HEADER_BYTES], text.field, text.document_id)
    try:
        if sealed[0] == COMPARABLE:
            opened = key.comparable.decrypt(sealed[_HEADER_BYTES:], [context])
        else:
            nonce, body = sealed[_HEADER_BYTES:][:NONCE_BYTES], sealed[_HEADER_BYTES + NONCE_BYTES :]
            opened = key.content.decrypt(nonce, body, context)
    except (InvalidTag, ValueError):  # ValueError: too short for a nonce
        return Unopened.DAMAGED
    return opened.decode()
