"""The audit log: an entry before an administrative act, and one after it (docs/decisions/0026)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
from msgspec import UNSET, UnsetType, structs

from app.contracts.audit import (
    AuditAct,
    AuditEntry,
    AuditFilter,
    AuditVerification,
    Details,
    Outcome,
    UnreadableEntry,
)
from app.contracts.callers import Caller
from app.contracts.errors import FlowError, InternalError, OperationalError, StoreUnavailableError
from app.contracts.pages import Page
from app.contracts.ports.audit import AuditStore
from app.contracts.ports.clock import Clock
from app.contracts.ports.secrets import SecretStore
from app.flow.audit_chain import AuditChain
from app.kit.tasks import end_tasks
from app.services.audit.pseudonyms import AuditPseudonyms
from app.services.audit.source import current_source
from app.services.audit.writer import AuditWriter, NewEntry

log = structlog.get_logger("audit")

SERVER_FLOW = "server-flow"
"""The actor of acts of the service itself, such as publishing a changed file of definitions."""
CANCELLED = "CANCELLED"
"""The error of an act whose request ended before it, such as when its client disconnected."""
RETRY_SECONDS = 1.0
PAGE_SIZE = 500


class OpenAct:
    """An act that has begun. What is set here stands in its second entry."""

    def __init__(self, first: AuditEntry) -> None:
        self.first = first
        self.before: str | UnsetType = first.act.before
        self.after: str | UnsetType = UNSET
        self.details: Details = dict(first.act.details)
        self.ended = False

    def ending(self, outcome: Outcome, error: str | UnsetType = UNSET) -> NewEntry:
        """Return the second entry."""
        self.ended = True
        act = structs.replace(self.first.act, before=self.before, after=self.after, details=self.details)
        return NewEntry(act, outcome, self.first.sequence, error)


class AuditLog:
    """Records administrative acts, and reads and verifies the records.

    If the entry before an act cannot be stored, the act is refused. An entry after an act that cannot be
    stored is retried until the process ends.
    """

    def __init__(self, store: AuditStore, secrets: SecretStore, clock: Clock) -> None:
        self._store = store
        self._writer = AuditWriter(store, clock)
        self._owed: list[NewEntry] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._retrying: asyncio.Task[None] | None = None
        self.pseudonyms = AuditPseudonyms(secrets)

    @asynccontextmanager
    async def act(
        self,
        action: str,
        target: str,
        by: Caller | str,
        *,
        user_id: str | None = None,
        before: str | UnsetType = UNSET,
        details: Details | None = None,
    ) -> AsyncIterator[OpenAct]:
        """Record an act, which is the block. The block may set ``before``, ``after`` and ``details``.

        Args:
            action: The kind of the act.
            target: The object of the act, without personal data.
            by: The caller, or the name of a publisher.
            user_id: The user whose data the act concerns; a pseudonym is recorded.
            before: The hash of the object before the act.
            details: Short facts that are known before the act.

        Raises:
            StoreUnavailableError: The entry before the act cannot be stored; the block does not run.
        """
        opened = await self.begin(action, target, by, user_id=user_id, before=before, details=details)
        try:
            yield opened
        except Exception as error:
            code = error.code if isinstance(error, FlowError | OperationalError) else None
            await self._end(opened, "failed", code)
            raise
        except BaseException:
            self.abandon(opened)
            raise
        await self._end(opened, "done")

    async def begin(
        self,
        action: str,
        target: str,
        by: Caller | str,
        *,
        user_id: str | None = None,
        before: str | UnsetType = UNSET,
        details: Details | None = None,
    ) -> OpenAct:
        """Store the entry before an act, for acts that are no block; ``end`` or ``abandon`` ends it.

        Raises:
            StoreUnavailableError: The entry cannot be stored.
        """
        source = current_source()
        actor, client = _actor(by)
        act = AuditAct(
            action=action,
            target=target,
            actor=actor,
            client=client,
            subject=UNSET if user_id is None else await self.pseudonyms.user(user_id),
            address=source.address,
            request_id=source.request_id,
            before=before,
            details={} if details is None else details,
        )
        return OpenAct(await self._writer.append(NewEntry(act, "started")))

    async def end(self, opened: OpenAct) -> AuditEntry:
        """Store the entry after an act that was done, and return it; inside the block of ``act``, too.

        Raises:
            StoreUnavailableError: The entry will be stored later.
        """
        return await self._append_last(opened.ending("done"))

    def abandon(self, opened: OpenAct, error: str = CANCELLED) -> None:
        """Store in the background that an act failed, as its request has ended."""
        if opened.ended:
            return
        task = asyncio.ensure_future(self._end(opened, "failed", error))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, opened: OpenAct, outcome: Outcome, error: str | None = None) -> None:
        """Store the entry after an act, unless it has one; the act cannot be undone if that fails."""
        if opened.ended:
            return
        code = UNSET if outcome == "done" else error or InternalError.code
        with suppress(StoreUnavailableError):
            await self._append_last(opened.ending(outcome, code))

    async def _append_last(self, new: NewEntry) -> AuditEntry:
        try:
            return await self._writer.append(new)
        except StoreUnavailableError:
            log.error("audit entry delayed", action=new.act.action, of=new.of)
            self._owed.append(new)
            if self._retrying is None or self._retrying.done():
                self._retrying = asyncio.create_task(self._retry())
            raise

    async def _retry(self) -> None:
        while self._owed:
            try:
                await self._writer.append(self._owed[0])
            except StoreUnavailableError:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                del self._owed[0]

    async def close(self) -> None:
        """Store the entries that are left, and stop."""
        if self._retrying is not None:
            await end_tasks([self._retrying])
        await asyncio.gather(*self._ending)
        try:
            for new in list(self._owed):
                await self._writer.append(new)
                self._owed.remove(new)
        except StoreUnavailableError:
            log.error("audit entries lost", entries=len(self._owed), of=[new.of for new in self._owed])

    async def page(self, after: int, limit: int, only: AuditFilter) -> Page[AuditEntry]:
        """Return entries that a filter selects. Unreadable ones are left out; ``verify`` reports them."""
        found = await self._store.read(after, limit, only)
        more = str(found[-1].sequence) if len(found) == limit else None
        return Page([entry for entry in found if isinstance(entry, AuditEntry)], more)

    async def all(self) -> AsyncIterator[AuditEntry | UnreadableEntry]:
        """Iterate over all entries, page by page."""
        after = 0
        while True:
            found = await self._store.read(after, PAGE_SIZE)
            for entry in found:
                yield entry
            if len(found) < PAGE_SIZE:
                return
            after = found[-1].sequence

    async def verify(self, expected_head: str = "") -> AuditVerification:
        """Check the chain over all entries; an entry with the hash ``expected_head`` must be among them."""
        chain = AuditChain(expected_head)
        async for entry in self.all():
            chain.add(entry)
        return chain.result()


def _actor(by: Caller | str) -> tuple[str, str]:
    """Return the actor of an act, and the kind of interface.

    Who has access to the database runs commands; the account of the machine names that person. Programs act
    for the owner of a state, which is no actor.
    """
    source = current_source()
    if by == SERVER_FLOW:
        return SERVER_FLOW, "service"
    if source.account is not UNSET:
        return f"cli:{source.account}", source.client
    if isinstance(by, str):
        return by, source.client
    return "python" if by.trusted else by.user_id, source.client
