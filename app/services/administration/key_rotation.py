"""Rotation of wrapping keys: wraps all data keys with the current one, while the service runs."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import structlog
from msgspec import Struct, structs

from app.contracts.callers import Caller
from app.contracts.ports.keys import DataKeyRing, DataKeyStore, KeyWrapping, WrappedKey
from app.services.audit.log import SERVER_FLOW, AuditLog

log = structlog.get_logger("encryption")

LOOK_EVERY = timedelta(seconds=2)
ROTATE_EVERY = timedelta(seconds=5)
PAGE_SIZE = 100
CONCURRENCY = 16
MAX_PASSES = 5


class WrappingKeyUse(Struct, frozen=True, rename="camel"):
    """A wrapping key, and the number of owners (users, and the service) whose data keys it wraps.

    ``known``: it is in the settings. ``unused``: it can be removed from there, once every worker wraps with
    the current one.
    """

    id: str
    owners: int
    current: bool
    known: bool
    unused: bool


class RotationReport(Struct, frozen=True, rename="camel"):
    """The result of a rotation to the wrapping key ``key``.

    ``remaining`` owners have data keys that another key wraps: damaged ones, or those that a worker created
    meanwhile that still wraps with another key.
    """

    key: str
    rewrapped: int = 0
    remaining: int = 0


RotationProgress = Callable[[int, int], None]
"""Receives the number of data keys that were wrapped again, and an estimate of all."""


class KeyRotation:
    """Wraps data keys again with the current wrapping key.

    Each data key is replaced by itself, if it is still as it was read. So a rotation can be interrupted at
    any point and repeated, and several may run at the same time.
    """

    def __init__(self, store: DataKeyStore, wrapping: KeyWrapping, audit: AuditLog) -> None:
        self._audit = audit
        self._store = store
        self._wrapping = wrapping
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._looked = self._due = False

    async def list_keys(self) -> list[WrappingKeyUse]:
        """Return the wrapping keys: those of the settings in their order, then unknown ones."""
        counts = await self._store.count_by_wrapping()
        current, known = self._wrapping.current, list(self._wrapping.known)
        return [
            WrappingKeyUse(
                id=key,
                owners=counts.get(key, 0),
                current=key == current,
                known=key in known,
                unused=key in known and key != current and not counts.get(key, 0),
            )
            for key in [*known, *sorted(counts.keys() - {*known})]
        ]

    async def rotate(
        self, progress: RotationProgress | None = None, *, caller: Caller | str = SERVER_FLOW
    ) -> RotationReport:
        """Wrap all data keys with the current wrapping key.

        Args:
            progress: Called after each page.
            caller: The caller, by default the service itself.

        Raises:
            StoreUnavailableError: The store or the key service does not respond; repeat it then.
        """
        async with self._audit.act("keys.rotate", f"key:{self._wrapping.current}", caller) as act:
            report = await self._rotate(progress)
            act.details.update(rewrapped=report.rewrapped, remaining=report.remaining)
        return report

    async def _rotate(self, progress: RotationProgress | None) -> RotationReport:
        total = await self._count_others()
        rewrapped = 0
        for _ in range(MAX_PASSES):
            before = rewrapped
            after = ""
            while page := await self._store.wrapped_by_others(self._wrapping.current, after, PAGE_SIZE):
                rewrapped += sum(await asyncio.gather(*(self._rewrap_ring(ring) for ring in page)))
                after = page[-1].owner
                if progress is not None:
                    progress(rewrapped, max(total, rewrapped))
            if rewrapped == before:
                break
        return RotationReport(self._wrapping.current, rewrapped, await self._count_others())

    async def look(self) -> None:
        """Job: note once after the start of a worker if another key wraps data keys.

        A worker of before a change of the current key notes nothing, and never wraps anything back.
        """
        if not self._looked:
            self._due = bool(await self._store.other_wrappings([self._wrapping.current]))
            self._looked = True

    async def rotate_if_due(self) -> None:
        """Job: wrap the data keys again that another key wrapped when this worker started."""
        if not self._due:
            return
        if not await self._store.other_wrappings([self._wrapping.current]):  # another worker did it
            self._due = False
            return
        report = await self.rotate()
        self._due = False
        if report.rewrapped:
            log.info("data keys wrapped again", key=report.key, data_keys=report.rewrapped)

    async def _count_others(self) -> int:
        counts = await self._store.count_by_wrapping()
        return sum(count for key, count in counts.items() if key != self._wrapping.current)

    async def _rewrap_ring(self, ring: DataKeyRing) -> int:
        """Wrap the keys of an owner again. Returns their number."""
        async with self._slots:
            current = self._wrapping.current
            return sum(
                [await self._rewrap(ring.owner, key) for key in ring.usable if key.wrapped_by != current]
            )

    async def _rewrap(self, owner: str, before: WrappedKey) -> bool:
        """Wrap a key again. Returns False if it was changed meanwhile, or cannot be unwrapped."""
        try:
            key = await self._wrapping.unwrap(before.wrapped, before.wrapped_by, owner)
        except (LookupError, ValueError):
            log.error("data key not wrapped again", data_key=before.id, wrapping_key=before.wrapped_by)
            return False
        wrapped_by = self._wrapping.current
        wrapped = await self._wrapping.wrap(key, owner)
        after = structs.replace(before, wrapped=wrapped, wrapped_by=wrapped_by)
        return await self._store.rewrap(owner, before, after)
