"""Seals the first commit of a state so that an erasure of the user's data reaches it.

A commit on an existing state fails if an erasure has ended that. Nothing guards the first commit of an epoch,
so it must not use a data key that an erasure has retired, or retires before the commit is made: it is sealed
with keys that were just read, which are read again after it. The erasure retires the key before it lists the
states that it ends. So if the key still seals then, the erasure finds the state (docs/decisions/0025).
"""

from collections.abc import Sequence
from functools import partial

from app.contracts.errors import StoreUnavailableError
from app.contracts.record import HistoryRecord, RememberedRequest, state_after
from app.contracts.state import StatePosition
from models.codec import Document
from models.database import Collection, store_errors
from models.document_codec import DocumentCodec
from models.sealed_fields import KEY_CHECK, STATE_FIELDS, add_key_check
from models.states.commits import CommitBatcher, ConditionalWrite, operation_of
from models.states.state_document import document_of

MAX_SEALINGS = 5


class SealedCommits:
    """Makes commits of sealed documents.

    Args:
        states: The collection of states.
        commits: Writes the commits.
        codec: Seals states.
    """

    def __init__(self, states: Collection, commits: CommitBatcher, codec: DocumentCodec) -> None:
        self._states = states
        self._commits = commits
        self._codec = codec

    async def make(self, before: StatePosition | None, record: HistoryRecord) -> bool:
        """Make ``record.after`` the state if it still stands at ``before``. Returns False otherwise."""
        first = before is None or record.revision == 0
        document = await self.document(record, fresh=first)
        written = {**document}
        operation = operation_of(before, record, document)
        async with store_errors():
            made = await self._commits.submit(ConditionalWrite(before, record, operation))
        return await self._seal_again(record, written) if made and first else made

    async def document(
        self, record: HistoryRecord, recent: Sequence[RememberedRequest] = (), *, fresh: bool
    ) -> Document:
        """Return the sealed document of the state that a record makes; ``recent`` are earlier requests."""
        encode = partial(document_of, recent=recent)
        (document,) = await self._codec.encode_many(encode, (record,), fresh=fresh, prepare=add_key_check)
        return document

    async def _seal_again(self, record: HistoryRecord, document: Document) -> bool:
        """Seal a first commit with another data key, until its key still seals after that.

        Args:
            record: The record of the commit.
            document: The document as it was written.

        Returns:
            False if the erasure has ended the state meanwhile, so that the command is decided again.

        Raises:
            StoreUnavailableError: The user's data was erased again and again meanwhile.
        """
        key = state_after(record).key
        as_made = {
            "_id": key,
            "epoch": record.epoch,
            "revision": record.revision,
            "outbox.commitId": record.commit_id,
        }
        for _ in range(MAX_SEALINGS):
            if await self._codec.seals_still(document):
                return True
            document = await self.document(record, fresh=True)
            changed = {name: document[name] for name in (*STATE_FIELDS, KEY_CHECK) if name in document}
            changed["outbox.$"] = document["outbox"][0]
            async with store_errors():
                answer = await self._states.update_one(as_made, {"$set": changed})
            if not answer.matched_count:
                return False
        raise StoreUnavailableError("data keys are retired as fast as they are created")
