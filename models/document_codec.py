"""Converts many values to documents and back, with what users entered sealed by a cipher.

A sealed text is binary in its document, a text in the clear is text: documents of a time before the
encryption stay readable, and are sealed when they are written the next time, unless the encryption is
required.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from app.contracts.ports.ciphers import PayloadCipher, PayloadText, SealedText, Unopened
from models.codec import KEYLESS, REFUSED_CLEAR, DamagedText, Document
from models.sealed_fields import Layout, SealedPlace

log = structlog.get_logger("store")

T = TypeVar("T")


class DocumentCodec:
    """Converts values to documents and back.

    Args:
        cipher: Seals what users entered. ``None`` stores it as it is, and nothing is awaited; a sealed
            text is then as unreadable as one that was changed.
        layout: Finds the fields to seal.
        required: Whether a text in the clear counts as changed, where a cipher seals.
    """

    def __init__(
        self, cipher: PayloadCipher | None = None, layout: Layout | None = None, *, required: bool = False
    ) -> None:
        self._cipher = cipher
        self._required = required
        self._layout: Layout = layout or (lambda _: iter(()))

    def of(self, layout: Layout) -> "DocumentCodec":
        """Return the codec of the documents of a collection."""
        return DocumentCodec(self._cipher, layout, required=self._required)

    @property
    def reads_clear(self) -> bool:
        """True if texts in the clear are read."""
        return self._cipher is None or not self._required

    async def encode_many(
        self,
        encode: Callable[[T], Document],
        values: Sequence[T],
        *,
        fresh: bool = False,
        prepare: Callable[[Document], None] | None = None,
    ) -> list[Document]:
        """Convert values with ``encode`` and seal the documents.

        Args:
            encode: Converts one.
            values: The values.
            fresh: Read the data keys again: for writes that no earlier state guards.
            prepare: Changes each document before it is sealed.
        """
        documents = list(map(encode, values))
        if self._cipher is not None:
            for document in documents if prepare is not None else ():
                prepare(document)  # type: ignore[misc]
            await self.seal(documents, fresh=fresh)
        return documents

    async def seal(self, documents: Sequence[Document], *, fresh: bool = False) -> int:
        """Seal the texts of documents that are in the clear, in place. Returns their number."""
        found = self._places(documents, str)
        if self._cipher is None or not found:
            return 0
        texts = [
            PayloadText(one.user_id, one.document_id, one.field, one.holder[one.name], one.comparable)
            for one in found
        ]
        for place, sealed in zip(found, await self._cipher.seal_many(texts, fresh=fresh), strict=True):
            place.holder[place.name] = sealed
        return len(found)

    async def seals_still(self, document: Document) -> bool:
        """Return whether the keys by which a document was sealed still seal, reading them again."""
        found = self._places([document], bytes)
        owned = next((place for place in found if place.user_id is not None), None)
        if self._cipher is None or owned is None:
            return True
        return await self._cipher.seals_with(str(owned.user_id), owned.holder[owned.name])

    async def decode_many(self, decode: Callable[[Document], T], documents: Sequence[Document]) -> list[T]:
        """Open documents and convert them with ``decode``.

        A text whose data key was destroyed is left out, as if it had been removed; one that cannot be
        opened for another reason makes its document unreadable; so does one in the clear, if the encryption
        is required.
        """
        if self._cipher is not None:
            documents = [_copy(document) for document in documents]  # loads of one state share a document
            sealed = self._places(documents, bytes)
            for document in () if self.reads_clear else documents:
                self._refuse_clear(document)
            await self._open(self._cipher, sealed)
        return list(map(decode, documents))

    def _refuse_clear(self, document: Document) -> None:
        found = self._places([document], str)
        for place in found:
            place.holder[place.name] = REFUSED_CLEAR
        if found:
            fields = [place.field for place in found]
            log.error("clear text refused", document=str(document.get("_id")), fields=fields)

    async def _open(self, cipher: PayloadCipher, found: Sequence[SealedPlace]) -> None:
        if not found:
            return
        texts = [
            SealedText(place.user_id, place.document_id, place.field, place.holder[place.name])
            for place in found
        ]
        for place, text in zip(found, await cipher.open_many(texts), strict=True):
            if text is Unopened.ERASED:
                del place.holder[place.name]
                place.holder[KEYLESS] = True
            elif text is Unopened.DAMAGED:
                place.holder[place.name] = DamagedText(place.holder[place.name])
            else:
                place.holder[place.name] = text

    def _places(self, documents: Sequence[Document], kind: type) -> list[SealedPlace]:
        return [
            place
            for document in documents
            for place in self._layout(document)
            if isinstance(place.holder.get(place.name), kind)
        ]


def _copy(document: Document) -> Document:
    """Copy a document as deep as it has sealed texts."""
    copied = {**document}
    if isinstance(after := document.get("after"), dict):
        copied["after"] = {**after}
    if isinstance(outbox := document.get("outbox"), list):
        copied["outbox"] = [_copy(record) if isinstance(record, dict) else record for record in outbox]
    return copied
