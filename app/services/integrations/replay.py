"""Replays: events that were delivered before are delivered again."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime

import structlog
from msgspec import UNSET, Struct

from app.auth.policy import require_manager
from app.contracts.callers import Caller
from app.contracts.deliveries import Lane, LaneId, LanePosition
from app.contracts.delivery_commands import ReplayCommand
from app.contracts.errors import Fault, InvalidRequestError
from app.contracts.ports.clock import Clock
from app.contracts.record import HistoryFilter, HistoryRecord
from app.contracts.state import StateId
from app.kit.ids import new_id
from app.services.audit.log import AuditLog
from app.services.integrations.ports import IntegrationPorts
from app.services.integrations.registry import IntegrationRegistry
from app.services.states.history import HistoryReader

log = structlog.get_logger("deliveries")

PAGE_SIZE = 500
_FIRST = LanePosition("", 0)


class ReplayResult(Struct, frozen=True):
    """The numbers of states and changes that are replayed.

    Not every change concerns the service. ``next`` is the ``after`` of the next request, None after the last.
    """

    states: int
    changes: int
    next: str | None = None


class Replays:
    """Stores a job for each state whose events a service receives again.

    A replay ends where the service was when it was requested; what comes later is delivered in any case. Its
    events have the ids that they had, and are marked.
    """

    def __init__(
        self,
        ports: IntegrationPorts,
        registry: IntegrationRegistry,
        history: HistoryReader,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._audit = audit
        self._lanes = ports.lanes
        self._registry = registry
        self._history = history
        self._clock = clock
        self._on_jobs: Callable[[str], None] | None = None

    def on_jobs(self, callback: Callable[[str], None]) -> None:
        """Call back with the alias of a service after jobs of it were stored, so that they begin at once."""
        self._on_jobs = callback

    async def replay(self, alias: str, command: ReplayCommand, caller: Caller) -> ReplayResult:
        """Replay events of a service.

        Raises:
            ServiceNotFoundError: There is no such service.
            InvalidRequestError: The range is incomplete.
        """
        require_manager(caller, alias)
        await self._registry.stored(alias)
        _require_range(command)
        if command.dry_run:
            return await self._replay(alias, command)
        async with self._audit.act("deliveries.replay", f"service:{alias}", caller) as act:
            done = await self._replay(alias, command)
            act.details.update(states=done.states, changes=done.changes)
        return done

    async def _replay(self, alias: str, command: ReplayCommand) -> ReplayResult:
        job = f"replay-{new_id()}"
        lanes, following = await self._lanes_of(alias, command)
        jobs: list[Lane] = []
        changes = 0
        for lane in lanes:
            found = [record async for record in self._records(lane, command)]
            if not found:
                continue
            changes += len(found)
            jobs.append(self._job(lane, job, found))
        if jobs and not command.dry_run:
            await self._lanes.add_jobs(jobs)
            if self._on_jobs is not None:
                self._on_jobs(alias)
            log.info("replay requested", service=alias, states=len(jobs), changes=changes)
        return ReplayResult(len(jobs), changes, following)

    async def _lanes_of(self, alias: str, command: ReplayCommand) -> tuple[list[Lane], str | None]:
        """Return the lanes of the states that a command selects, and where the next page begins."""
        if command.user_id is not UNSET and command.flow_id is not UNSET:
            entity = None if command.entity_id is UNSET else command.entity_id
            lane_id = LaneId(alias, StateId(command.flow_id, command.user_id, entity))
            lane = await self._lanes.get(lane_id)
            return ([] if lane is None else [lane]), None
        page = await self._lanes.list_lanes(alias, command.after, command.limit)
        return [lane for lane in page.items if _selects(command, lane.id.state_id)], page.next

    async def _records(self, lane: Lane, command: ReplayCommand) -> AsyncIterator[HistoryRecord]:
        """Yield the changes of a state in the range, up to the last one that was delivered."""
        if lane.cursor is None:
            return
        only = HistoryFilter(since=_moment(command.since), until=_moment(command.until), success=True)
        first = _first_position(lane.cursor, command)
        after: str | None = None
        while True:
            page = await self._history.read(lane.id.state_id, after, PAGE_SIZE, only, None)
            for record in page.items:
                position = LanePosition(record.epoch, record.revision)
                if record.after is not UNSET and first <= position <= lane.cursor:
                    yield record
            if page.next is None:
                return
            after = page.next

    def _job(self, lane: Lane, job: str, records: list[HistoryRecord]) -> Lane:
        first, last = records[0], records[-1]
        return Lane(
            id=LaneId(lane.id.alias, lane.id.state_id, job),
            since=first.timestamp,
            cursor=_before(first),
            newest=LanePosition(last.epoch, last.revision),
            end=LanePosition(last.epoch, last.revision),
            due_at=self._clock.now(),
        )


def _require_range(command: ReplayCommand) -> None:
    faults = []
    if command.since is UNSET and command.until is UNSET and command.from_revision is UNSET:
        faults.append(Fault("", "must have since, until or fromRevision"))
    if command.from_revision is not UNSET and (command.flow_id is UNSET or command.user_id is UNSET):
        faults.append(Fault("/fromRevision", "must be given with flowId and userId"))
    if command.epoch is not UNSET and command.from_revision is UNSET:
        faults.append(Fault("/epoch", "must be given with fromRevision"))
    if command.since is not UNSET and command.until is not UNSET and command.since >= command.until:
        faults.append(Fault("/until", "must be later than since"))
    if faults:
        raise InvalidRequestError(faults)


def _selects(command: ReplayCommand, state_id: StateId) -> bool:
    return (
        command.flow_id in (UNSET, state_id.flow_id)
        and command.user_id in (UNSET, state_id.user_id)
        and command.entity_id in (UNSET, state_id.instance_id)
    )


def _first_position(cursor: LanePosition, command: ReplayCommand) -> LanePosition:
    if command.from_revision is UNSET:
        return _FIRST
    return LanePosition(cursor.epoch if command.epoch is UNSET else command.epoch, command.from_revision)


def _before(record: HistoryRecord) -> LanePosition | None:
    """Return the position before a change; None before the first of an epoch, which ``since`` excludes."""
    return None if record.revision == 0 else LanePosition(record.epoch, record.revision - 1)


def _moment(given: object) -> datetime | None:
    return given if isinstance(given, datetime) else None
