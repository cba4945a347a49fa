"""The port of the encryption of payloads."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct


class PayloadText(Struct, frozen=True):
    """A payload in a document, as JSON or sealed.

    Args:
        user_id: The user whose state it belongs to.
        document_id: The id of its state or record, to which a sealed text is bound.
        text: The payload.
    """

    user_id: str
    document_id: str
    text: str


class PayloadCipher(Protocol):
    """Seals payloads before they are stored, and opens them after they are read.

    It works on many texts at once and may wait for keys. Stores call it before a command is batched and after
    it was answered, never in between.
    """

    async def seal_many(self, texts: Sequence[PayloadText]) -> Sequence[str]:
        """Return the sealed texts, in order."""

    async def open_many(self, texts: Sequence[PayloadText]) -> Sequence[str]:
        """Return the original texts, in order."""
