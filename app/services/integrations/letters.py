"""Use cases about events that could not be delivered: dead letters."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import structlog
from msgspec import UNSET, Struct, structs

from app.auth.policy import require_administrator, require_manager
from app.contracts.audit import Details
from app.contracts.callers import Caller
from app.contracts.deliveries import (
    DeadLetter,
    DeadLetterFilter,
    Lane,
    LaneId,
    LanePosition,
    LoggedDelivery,
)
from app.contracts.errors import DeliveryNotFoundError, Fault, InvalidRequestError
from app.contracts.pages import Page
from app.contracts.ports.clock import Clock
from app.contracts.ports.transports import MAX_EVENT_BYTES
from app.contracts.wire.encoding import encode
from app.flow.values.storable_json import storage_errors
from app.services.audit.log import AuditLog
from app.services.integrations.ports import IntegrationPorts
from app.services.integrations.verdict import REFUSED

log = structlog.get_logger("deliveries")

PAGE_SIZE = 500
SETTLED = timedelta(seconds=1)
"""Letters are listed after it, and none is stored with an earlier time then: not by a slow command, nor by a
worker whose clock is behind."""
FIXED_MEMBERS = ("id", "specversion")
"""Members of an event that an edit must not change: receivers recognise repeats by the id."""


class ListedLetters(Struct, frozen=True):
    """A page of dead letters, and the filter that selects exactly those of all pages."""

    page: Page[DeadLetter]
    only: DeadLetterFilter


class LettersResult(Struct, frozen=True):
    """The number of letters that matched a filter, and of those that were changed.

    ``skipped`` cannot be redelivered: their events do not exist any more, or they are on their way already.
    """

    matched: int
    changed: int
    skipped: int = 0


class FoundDelivery(Struct, frozen=True):
    """An event in the log of a service, among its dead letters, or in both."""

    logged: LoggedDelivery | None
    letter: DeadLetter | None


class DeadLetterAdministration:
    """Lists, edits, drops and redelivers dead letters.

    Administrators may do so for all services, a service for itself. A bulk operation takes the filter that a
    list returned, and so exactly the letters that it showed: the filter ends a moment before the list.
    """

    def __init__(self, ports: IntegrationPorts, audit: AuditLog, clock: Clock) -> None:
        self._audit = audit
        self._letters = ports.letters
        self._lanes = ports.lanes
        self._log = ports.log
        self._clock = clock
        self._on_jobs: Callable[[str], None] | None = None

    def on_jobs(self, callback: Callable[[str], None]) -> None:
        """Call back with the alias of a service after jobs of it were stored, so that they begin at once."""
        self._on_jobs = callback

    async def list_letters(
        self, only: DeadLetterFilter, *, after: str | None, limit: int, caller: Caller
    ) -> ListedLetters:
        """Return a page of the letters that match, those that died first first.

        Support staff do not see the words with which a receiver refused an event: they may repeat a payload.
        """
        only = _permitted(only, caller, caller.reads_all)
        settled = self._clock.now() - SETTLED
        only = structs.replace(only, until=settled if only.until is None else min(only.until, settled))
        page = await self._letters.find(only, after, limit)
        if not (caller.is_administrator or caller.service):
            page = Page([_without_words(letter) for letter in page.items], page.next)
        return ListedLetters(page, only)

    async def list_failing(self, alias: str, *, after: str | None, limit: int, caller: Caller) -> Page[Lane]:
        """Return the states whose next event has failed and is tried again, by key."""
        require_manager(caller, alias)
        return await self._lanes.list_failing(alias, after, limit)

    async def read(self, alias: str, event_id: str, caller: Caller) -> DeadLetter:
        """Return a letter with all its attempts. Raises DeliveryNotFoundError."""
        require_manager(caller, alias)
        found = await self._letters.get(alias, event_id)
        if found is None:
            raise DeliveryNotFoundError(event_id)
        return found

    async def find_delivery(self, alias: str, event_id: str, caller: Caller) -> FoundDelivery:
        """Return an event that was delivered or given up. Raises DeliveryNotFoundError."""
        require_manager(caller, alias)
        logged = await self._log.find(event_id)
        if logged is not None and logged.alias != alias:
            logged = None
        letter = await self._letters.get(alias, event_id)
        if logged is None and letter is None:
            raise DeliveryNotFoundError(event_id)
        return FoundDelivery(logged, letter)

    async def edit(self, alias: str, event_id: str, event: dict[str, Any], caller: Caller) -> DeadLetter:
        """Replace the event of a letter.

        Raises:
            DeliveryNotFoundError: There is no such letter.
            InvalidRequestError: With every fault of the event.
        """
        require_administrator(caller)
        letter = await self.read(alias, event_id, caller)
        faults = storage_errors(event, "/event")
        expected = {"id": letter.id, "specversion": "1.0"}
        faults += [
            Fault(f"/event/{name}", f"must be {expected[name]!r}: receivers recognise the event by it")
            for name in FIXED_MEMBERS
            if event.get(name) != expected[name]
        ]
        if not faults and len(encode(event)) > MAX_EVENT_BYTES:
            faults.append(Fault("/event", f"must have at most {MAX_EVENT_BYTES} bytes"))
        if faults:
            raise InvalidRequestError(faults)
        edited = structs.replace(letter, event=event, edited_by=caller.user_id)
        details: Details = {"delivery": event_id}
        async with self._audit.act("delivery.edit", f"service:{alias}", caller, details=details):
            if not await self._letters.replace(edited):
                raise DeliveryNotFoundError(event_id)
        log.info("dead letter edited", service=alias, delivery=event_id)
        return edited

    async def redeliver(self, only: DeadLetterFilter, caller: Caller, *, dry_run: bool) -> LettersResult:
        """Deliver the events of all letters that match; each letter is removed once that has succeeded."""
        only = _permitted(only, caller, caller.is_administrator)
        if dry_run:
            return await self._redeliver_all(only, dry_run=True)
        async with self._audit.act("deliveries.redeliver", _target(only), caller) as act:
            done = await self._redeliver_all(only, dry_run=False)
            act.details.update(matched=done.matched, changed=done.changed)
        return done

    async def _redeliver_all(self, only: DeadLetterFilter, *, dry_run: bool) -> LettersResult:
        matched = changed = skipped = 0
        async for letters in self._pages(only):
            possible = [each for each in letters if _has_event(each)]
            begun = sum(each.redelivering for each in possible)
            matched += len(letters)
            skipped += len(letters) - len(possible) + begun
            changed += len(possible) - begun
            if possible and not dry_run:
                await self._redeliver(possible)
        if changed and not dry_run:
            log.info("dead letters redelivered", letters=changed)
        return LettersResult(matched, changed, skipped)

    async def drop(self, only: DeadLetterFilter, caller: Caller, *, dry_run: bool) -> LettersResult:
        """Remove all letters that match; their events are not delivered."""
        only = _permitted(only, caller, caller.is_administrator)
        if dry_run:
            matched = await self._letters.count(only)
            return LettersResult(matched, matched)
        async with self._audit.act("deliveries.drop", _target(only), caller) as act:
            done = await self._drop_all(only)
            act.details.update(matched=done.matched, changed=done.changed)
        return done

    async def _drop_all(self, only: DeadLetterFilter) -> LettersResult:
        matched = changed = 0
        async for letters in self._pages(only):
            matched += len(letters)
            by_alias: dict[str, list[str]] = {}
            for letter in letters:
                by_alias.setdefault(letter.alias, []).append(letter.id)
            for alias, ids in by_alias.items():
                changed += await self._letters.delete(alias, ids)
        if changed:
            log.info("dead letters dropped", letters=changed)
        return LettersResult(matched, changed)

    async def _pages(self, only: DeadLetterFilter) -> AsyncIterator[list[DeadLetter]]:
        after = None
        while True:
            page = await self._letters.find(only, after, PAGE_SIZE)
            yield page.items
            if page.next is None:
                return
            after = page.next

    async def _redeliver(self, letters: list[DeadLetter]) -> None:
        """Mark each letter, then store a job for it. A repetition goes on where a crash ended the first."""
        now = self._clock.now()
        for letter in letters:
            if not letter.redelivering:
                await self._letters.replace(structs.replace(letter, redelivering=True))
        await self._lanes.add_jobs(
            [
                Lane(
                    id=LaneId(letter.alias, letter.state_id, f"letter-{letter.id}"),
                    since=letter.at,
                    newest=LanePosition(letter.epoch, letter.revision),
                    letter=letter.id,
                    due_at=now,
                )
                for letter in letters
            ]
        )
        if self._on_jobs is not None:
            for alias in {letter.alias for letter in letters}:
                self._on_jobs(alias)


def _target(only: DeadLetterFilter) -> str:
    return "services" if only.service is None else f"service:{only.service}"


def _without_words(letter: DeadLetter) -> DeadLetter:
    """Return a letter without the words of its receiver."""
    return structs.replace(letter, detail=REFUSED) if letter.detail.startswith(REFUSED) else letter


def _has_event(letter: DeadLetter) -> bool:
    """Return whether there is an event to send: that of the letter, or one made anew of its change."""
    return letter.event is not UNSET or letter.reason != "expired"


def _permitted(only: DeadLetterFilter, caller: Caller, of_all: bool) -> DeadLetterFilter:
    """Return the filter of a caller, one for the letters of all services or of the caller's own alone.

    Raises:
        InsufficientPermissionsError: The caller is not the service that is named.
    """
    if of_all:
        return only
    alias = only.service or caller.service
    require_manager(caller, alias)
    return structs.replace(only, service=alias)
