"""The port of the encryption of what users entered."""

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from msgspec import Struct


class PayloadText(Struct, frozen=True):
    """A text in a document, before it is sealed.

    Args:
        user_id: The user whose data it is; None: of the service, such as the secret of a webhook.
        document_id: The id of its document, to which a sealed text is bound.
        field: The name of its field in the document, to which a sealed text is bound too.
        text: The text.
        comparable: Equal texts of one user, document id and field have equal sealed texts, so that a store
            can look one up.
    """

    user_id: str | None
    document_id: str
    field: str
    text: str
    comparable: bool = False


class SealedText(Struct, frozen=True):
    """A sealed text in a document; the members are those of ``PayloadText``."""

    user_id: str | None
    document_id: str
    field: str
    sealed: bytes


class Unopened(Enum):
    """Why a sealed text has no text any more."""

    ERASED = "erased"
    """The user's data was erased: the data key was destroyed."""
    DAMAGED = "damaged"
    """It was changed, or moved from another document or field, or its data key is not known."""


class PayloadCipher(Protocol):
    """Seals texts before they are stored, and opens them after they are read.

    It works on many texts at once and may wait for keys. Stores call it before a command is batched and after
    it was answered, never in between.
    """

    async def seal_many(self, texts: Sequence[PayloadText], *, fresh: bool = False) -> Sequence[bytes]:
        """Return the sealed texts, in order.

        Args:
            texts: The texts.
            fresh: Read the data keys again, so that none is used that was destroyed before the call. For
                commits that no earlier state of the user guards (docs/decisions/0025).

        Raises:
            StoreUnavailableError: A data key cannot be read, or the key service does not respond.
        """

    async def open_many(self, texts: Sequence[SealedText]) -> Sequence[str | Unopened]:
        """Return the original texts, in order. Raises StoreUnavailableError as ``seal_many`` does."""

    async def seals_with(self, user_id: str, sealed: bytes) -> bool:
        """Read the data keys of a user again; return whether a new text is sealed with the key of ``sealed``.

        Raises:
            StoreUnavailableError: The data keys cannot be read.
        """
