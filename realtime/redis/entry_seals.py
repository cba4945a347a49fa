"""Sealed entries of streams: AES-256-GCM with keys that follow from a webhook secret of the service.

docs/reference/service-events.md specifies the form to the byte, for programs in other languages.
"""

import itertools
import os
from collections.abc import Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.contracts.integration import IntegrationSecret
from app.outbound.webhook_signatures import decode_secret

FORMAT = "1"
"""The value of the field ``sealed``. An entry in the clear has no such field."""
SALT_BYTES, NONCE_BYTES, TAG_BYTES = 16, 12, 16
MAX_SEALERS = 1000
MAX_CIPHERS = 1000
"""Keys that an opener retains: one for each secret and each worker that has appended entries."""


class MissingSecretError(Exception):
    """An entry was sealed with a secret that the consumer does not have.

    Args:
        secret_id: The id of the secret, as ``server-flow services show`` has it.
        entry: The identifier of the entry in the stream.
    """

    def __init__(self, secret_id: str, entry: str) -> None:
        super().__init__(
            f"the entry {entry} is sealed with the webhook secret {secret_id} of the service, and none of "
            "the given secrets opens it: pass that secret too, in secrets=[...]"
        )
        self.secret_id = secret_id
        self.entry = entry


class DamagedEntryError(ValueError):
    """A sealed entry was changed, moved from another stream, or has another format."""


class EntrySealer:
    """Seals entries of this process with one secret: a key of its own, and nonces that count."""

    def __init__(self, secret: IntegrationSecret) -> None:
        self.secret_id = secret.id
        self._salt = os.urandom(SALT_BYTES)
        self._cipher = _cipher_of(decode_secret(secret.secret), self._salt)
        self._counter = itertools.count()

    def seal(self, stream: str, event_id: str, event_type: str, event: bytes) -> bytes:
        """Return the sealed event of an entry."""
        nonce = next(self._counter).to_bytes(NONCE_BYTES, "big")
        sealed = self._cipher.encrypt(nonce, event, _associated_data(stream, event_id, event_type))
        return self._salt + nonce + sealed


class EntrySealers:
    """The sealers of this process by their secrets."""

    def __init__(self) -> None:
        self._sealers: dict[IntegrationSecret, EntrySealer] = {}

    def of(self, secret: IntegrationSecret) -> EntrySealer:
        """Return the sealer of a secret."""
        sealer = self._sealers.get(secret)
        if sealer is None:
            if len(self._sealers) >= MAX_SEALERS:
                del self._sealers[next(iter(self._sealers))]  # a later one has another salt
            sealer = self._sealers[secret] = EntrySealer(secret)
        return sealer


class EntryOpener:
    """Opens sealed entries of one stream.

    Args:
        stream: The key of the stream.
        secrets: Webhook secrets of the service, ``whsec_…``.

    Raises:
        SecretError: A text is no such secret.
    """

    def __init__(self, stream: str, secrets: Iterable[str]) -> None:
        self._stream = stream
        self._secrets = [decode_secret(secret) for secret in secrets]
        self._secret_of: dict[str, bytes] = {}
        self._ciphers: dict[tuple[bytes, bytes], AESGCM] = {}

    def open(
        self, sealed: bytes, *, seal_format: str, secret_id: str, event_id: str, event_type: str, entry: str
    ) -> bytes:
        """Return the event of an entry.

        Raises:
            MissingSecretError: None of the secrets is the one that sealed it.
            DamagedEntryError: It was changed, or has another format.
        """
        if seal_format != FORMAT:
            raise DamagedEntryError(f"the entry is sealed in the format {seal_format}, which is not known")
        if len(sealed) < SALT_BYTES + NONCE_BYTES + TAG_BYTES:
            raise DamagedEntryError("the sealed event is too short")
        data = _associated_data(self._stream, event_id, event_type)
        known = self._secret_of.get(secret_id)
        for secret in self._secrets if known is None else [known]:
            event = self._try(secret, sealed, data)
            if event is not None:
                self._secret_of[secret_id] = secret
                return event
        if known is None:
            raise MissingSecretError(secret_id, entry)
        raise DamagedEntryError("the sealed event was changed, or is of another entry")

    def _try(self, secret: bytes, sealed: bytes, data: bytes) -> bytes | None:
        """Return the event if it was sealed with a secret."""
        salt, nonce = sealed[:SALT_BYTES], sealed[SALT_BYTES : SALT_BYTES + NONCE_BYTES]
        known = self._ciphers.get((secret, salt))
        cipher = known or _cipher_of(secret, salt)
        try:
            event = cipher.decrypt(nonce, sealed[SALT_BYTES + NONCE_BYTES :], data)
        except InvalidTag:
            return None
        if known is None:
            if len(self._ciphers) >= MAX_CIPHERS:
                del self._ciphers[next(iter(self._ciphers))]
            self._ciphers[secret, salt] = cipher
        return event


def _cipher_of(secret: bytes, salt: bytes) -> AESGCM:
    derivation = HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"server-flow stream 1")
    return AESGCM(derivation.derive(secret))


def _associated_data(stream: str, event_id: str, event_type: str) -> bytes:
    """Return the text to which a sealed event is bound; none of its parts has a line break."""
    return f"{stream}\n{event_id}\n{event_type}".encode()
