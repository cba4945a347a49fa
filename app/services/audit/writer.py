"""Appends entries to the audit log: gapless and chained, whatever other workers append."""

import asyncio
from collections import deque

from msgspec import UNSET, UnsetType

from app.contracts.audit import AuditAct, AuditEntry, Outcome
from app.contracts.errors import StoreUnavailableError
from app.contracts.ports.audit import AuditStore
from app.contracts.ports.clock import Clock
from app.flow.audit_chain import seal

MAX_ATTEMPTS = 1000
"""In each lost race another worker has stored entries; so many are no race."""
MAX_BATCH = 200
"""Entries that are stored by one command."""


class NewEntry:
    """An entry before it has a place in the chain.

    ``attempted`` is the entry that an earlier command, which had no answer, may have stored.
    """

    def __init__(
        self,
        act: AuditAct,
        outcome: Outcome,
        of: int | UnsetType = UNSET,
        error: str | UnsetType = UNSET,
    ) -> None:
        self.act = act
        self.outcome = outcome
        self.of = of
        self.error = error
        self.attempted: AuditEntry | None = None


class _Waiting:
    """An entry whose act waits until it is stored."""

    def __init__(self, new: NewEntry) -> None:
        self.new = new
        self.stored: asyncio.Future[AuditEntry] = asyncio.get_running_loop().create_future()


class AuditWriter:
    """Appends entries. Those of concurrent acts in this worker share commands."""

    def __init__(self, store: AuditStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._last: AuditEntry | None = None
        self._waiting: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None

    async def append(self, new: NewEntry) -> AuditEntry:
        """Store an entry after the last one, and return it with its sequence and hash.

        After a failure it may have been stored; the next attempt with the same object finds that out.

        Raises:
            StoreUnavailableError: The store does not respond.
        """
        waiting = _Waiting(new)
        self._waiting.append(waiting)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await asyncio.shield(waiting.stored)

    async def _run(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            try:
                await self._append_all(batch)
            except Exception as error:  # noqa: BLE001 - the acts receive it
                self._last = None
                for waiting in batch:
                    if not waiting.stored.done():
                        waiting.stored.set_exception(error)
                        waiting.stored.exception()  # its act may have been cancelled

    async def _append_all(self, batch: list[_Waiting]) -> None:
        left = [waiting for waiting in batch if not await self._was_stored(waiting)]
        for _ in range(MAX_ATTEMPTS):
            if not left:
                return
            entries = await self._chained(left)
            for waiting, entry in zip(left, entries, strict=True):
                waiting.new.attempted = entry
            stored = await self._store.append(entries)
            for waiting, entry in zip(left[:stored], entries[:stored], strict=True):
                waiting.stored.set_result(entry)
            self._last = entries[stored - 1] if stored == len(entries) else None  # another worker was first
            left = left[stored:]
            for waiting in left:
                waiting.new.attempted = None
        if left:
            raise StoreUnavailableError("the audit log has entries that hide a used sequence")

    async def _was_stored(self, waiting: _Waiting) -> bool:
        attempted = waiting.new.attempted
        if attempted is None or attempted not in await self._store.read(attempted.sequence - 1, 1):
            return False
        waiting.stored.set_result(attempted)
        return True

    async def _chained(self, batch: list[_Waiting]) -> list[AuditEntry]:
        last = self._last or await self._store.last()
        sequence, head = 0, ""
        if last is not None:
            # After an entry that somebody made unreadable the chain is broken, and the log goes on.
            sequence, head = last.sequence, last.hash if isinstance(last, AuditEntry) else ""
        entries, now = [], self._clock.now()
        for n, waiting in enumerate(batch, start=1):
            new = waiting.new
            entry = seal(AuditEntry(sequence + n, now, new.act, new.outcome, head, "", new.of, new.error))
            entries.append(entry)
            head = entry.hash
        return entries
