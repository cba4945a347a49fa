"""Reads pages of documents, with at most a page and a batch in memory."""

from typing import Any

import bson
from motor.core import AgnosticBaseCursor
from msgspec import Struct

from app.contracts.pages import MAX_PAGE_BYTES
from models.codec import Document

BATCH_DOCUMENTS = 32
"""Documents that the server sends at a time, unless ``$limit`` is smaller."""


class DocumentPage(Struct):
    """Documents of one or several cursors, up to ``limit`` of them and up to ``left_bytes``.

    ``full``: there may be further documents.
    """

    limit: int
    left_bytes: float = MAX_PAGE_BYTES
    documents: list[Document] = []
    full: bool = False

    @property
    def left(self) -> int:
        """The number of documents that still fit."""
        return self.limit - len(self.documents)

    async def read(self, cursor: AgnosticBaseCursor[Any]) -> int:
        """Add documents of a cursor that has a batch size of ``BATCH_DOCUMENTS``. Returns how many."""
        before = len(self.documents)
        while not self.full and (batch := await cursor.to_list(min(BATCH_DOCUMENTS, self.left))):
            for document in batch:
                self.left_bytes -= len(bson.encode(document))
                if self.documents and self.left_bytes < 0:
                    self.full = True
                    await cursor.close()
                    break
                self.documents.append(document)
            self.full = self.full or self.left <= 0
        return len(self.documents) - before
