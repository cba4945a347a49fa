"""Seals what was stored before the encryption was switched on, page by page."""

from collections.abc import Callable

from msgspec import Struct

from app.contracts.callers import Caller
from app.contracts.ports.keys import ClearData
from app.services.audit.log import SERVER_FLOW, AuditLog

PAGE_SIZE = 200
Progress = Callable[[str, int, int], None]
"""Called with a collection, and how many of its documents were checked and sealed so far."""


class SealingReport(Struct, frozen=True):
    """The result of sealing: how many documents were checked, and sealed."""

    checked: int
    sealed: int


class ClearDataSealing:
    """Seals stored data that is in the clear. It can be interrupted and repeated, also beside workers."""

    def __init__(self, data: ClearData, audit: AuditLog) -> None:
        self._data = data
        self._audit = audit

    async def seal(
        self, progress: Progress | None = None, *, caller: Caller | str = SERVER_FLOW
    ) -> SealingReport:
        """Seal all documents with a text in the clear.

        Raises:
            StoreUnavailableError: The store does not respond; repeat it then.
        """
        async with self._audit.act("keys.seal", "data", caller) as act:
            checked = sealed = 0
            for collection in self._data.collections:
                of_it = await self._seal_collection(collection, progress)
                checked, sealed = checked + of_it.checked, sealed + of_it.sealed
            act.details.update(checked=checked, sealed=sealed)
        return SealingReport(checked, sealed)

    async def _seal_collection(self, collection: str, progress: Progress | None) -> SealingReport:
        checked = sealed = 0
        after: str | None = ""
        while after is not None:
            page = await self._data.seal_page(collection, after, PAGE_SIZE)
            checked, sealed, after = checked + page.checked, sealed + page.sealed, page.next
            if progress is not None:
                progress(collection, checked, sealed)
        return SealingReport(checked, sealed)
