"""Migration: the difference of two versions, and the move of running states from one to the other."""

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import datetime

import structlog
from msgspec import UNSET, structs

from app.contracts.callers import Caller
from app.contracts.commands import Origin
from app.contracts.errors import (
    Fault,
    FlowError,
    InternalError,
    InvalidRequestError,
    StoreUnavailableError,
)
from app.contracts.migration import (
    MAX_LISTED_FAILURES,
    SAMPLE_SIZE,
    FlowDiff,
    MigrateCommand,
    MigrationFailure,
    MigrationReport,
)
from app.contracts.ports.clock import Clock
from app.contracts.ports.states import StateStore
from app.contracts.state import FlowState
from app.contracts.wire.errors import error_view
from app.flow.versions.diff import diff
from app.flow.versions.mapping import StepMapping
from app.flow.versions.rehearsal import Rehearsal, rehearse
from app.services.definitions.publisher import Definitions
from app.services.states.changes import StateChanges
from app.services.states.state_command import ProposedChange, StateCommand
from config.log import describe

log = structlog.get_logger("migration")

TOGETHER = 50
"""States that are moved at a time: their loads and commits share commands, behind which others wait."""
PASSES = 10
REST_SECONDS = 1.0
"""For a database that stopped to answer while states were moved."""
SECONDS = 20.0
"""How long one call moves states; whoever waits for the answer must not give up."""

Progress = Callable[[int], None]
"""Told how many states were moved so far."""


class Migration:
    """Compares versions and moves states. A move is a change like any other: conditional on the position of
    the state, and decided again when that has changed; so transitions may go on meanwhile."""

    def __init__(
        self, states: StateStore, changes: StateChanges, definitions: Definitions, clock: Clock
    ) -> None:
        self._states = states
        self._changes = changes
        self._definitions = definitions
        self._clock = clock

    async def diff(self, flow_id: str, earlier: int, later: int, caller: Caller) -> FlowDiff:
        """How version ``later`` differs from ``earlier``, and what that means for running states. Raises
        FlowNotFoundError, InsufficientPermissionsError."""
        old = await self._definitions.version(flow_id, earlier, caller)
        return diff(old, await self._definitions.version(flow_id, later, caller))

    async def migrate(
        self,
        flow_id: str,
        command: MigrateCommand,
        *,
        origin: Origin,
        progress: Progress = lambda _: None,
    ) -> MigrationReport:
        """Move running states, or say what would become of them. Ends after ``command.limit`` states or some
        seconds; while states are ``remaining`` and were ``moved``, the same call again goes on. Raises
        FlowNotFoundError, and InvalidRequestError with every fault of the mapping, also for steps at which
        states run and which it leads nowhere."""
        mapping = await self._mapping(flow_id, command, origin.caller)
        rehearsal = await self._rehearse(mapping)
        if command.dry_run:
            return await self._report(mapping, rehearsal, None)
        if rehearsal.unmapped:
            raise InvalidRequestError(rehearsal.unmapped)
        run = _Run(self._changes, mapping, origin, progress)
        await self._move(run, command.limit)
        return await self._report(mapping, rehearsal, run)

    async def _mapping(self, flow_id: str, command: MigrateCommand, caller: Caller) -> StepMapping:
        old = await self._definitions.version(flow_id, command.from_version, caller)
        new = await self._definitions.version(flow_id, command.to_version, caller)
        mapping = StepMapping(old, new, command.mapping)
        faults = [Fault(f"/mapping{fault.pointer}", fault.message) for fault in mapping.faults()]
        if new.version == old.version:
            faults.append(Fault("/to", "is the version that the states are on"))
        if new.retired:
            faults.append(Fault("/to", f"version {new.version} is the end of the flow: nothing runs on it"))
        if faults:
            raise InvalidRequestError(faults)
        return mapping

    async def _rehearse(self, mapping: StepMapping) -> Rehearsal:
        old = mapping.old
        found = await self._states.count_running_by_step(
            old.flow.flow, old.version, SAMPLE_SIZE, self._clock.now()
        )
        return await asyncio.to_thread(rehearse, mapping, found)

    async def _move(self, run: "_Run", limit: int) -> None:
        """Pass by pass, until one finds no more: a worker that did not know of the new version may have
        started states on the old one behind the first. Raises StoreUnavailableError when a pass moves none
        as the database does not answer."""
        mapping = run.mapping
        left = [step for step in mapping.given if mapping.leaves(step)]
        until = asyncio.get_running_loop().time() + SECONDS
        for _ in range(PASSES):
            wanted = limit - run.moved
            if not wanted:
                return
            found = await self._states.list_running_users(
                mapping.old.flow.flow,
                mapping.old.version,
                left,
                wanted + len(run.failures),
                self._clock.now(),
            )
            users = [user for user in found if run.may_try(user)][:wanted]
            if not users:
                return
            before = run.moved
            try:
                await run.move_all(users, until)
            except StoreUnavailableError:
                if run.moved == before:
                    raise
                await asyncio.sleep(REST_SECONDS)
            if asyncio.get_running_loop().time() >= until:
                return

    async def _report(self, mapping: StepMapping, found: Rehearsal, run: "_Run | None") -> MigrationReport:
        now = found if run is None else await self._rehearse(mapping)
        remaining = sum(s.fit.count + s.need_mapping.count + s.stuck.count for s in now.steps)
        failures = {} if run is None else run.failures
        report = MigrationReport(
            flow=mapping.old.flow.flow,
            from_version=mapping.old.version,
            to_version=mapping.new.version,
            dry_run=run is None,
            moved=0 if run is None else run.moved,
            failed=len(failures),
            remaining=remaining,
            steps=found.steps,
            proposals=found.proposals,
            failures=[
                MigrationFailure(user, error_view(error))
                for user, error in sorted(failures.items())[:MAX_LISTED_FAILURES]
            ],
        )
        if run is not None:
            counts = {"moved": report.moved, "failed": report.failed, "remaining": remaining}
            versions = {"old": report.from_version, "new": report.to_version}
            log.info("states migrated", flow=report.flow, **versions, **counts)
        return report


class _Run:
    """One call's moves. ``failures`` are those that could not be moved, by user, and why."""

    def __init__(
        self, changes: StateChanges, mapping: StepMapping, origin: Origin, progress: Progress
    ) -> None:
        self._changes = changes
        # What the whole run is conditional on or repeated by says nothing of one state.
        self._origin = structs.replace(origin, request_id=UNSET, expected=None, dry_run=False)
        self._progress = progress
        self._outage: StoreUnavailableError | None = None
        self.mapping = mapping
        self.moved = 0
        self.failures: dict[str, FlowError] = {}

    def may_try(self, user_id: str) -> bool:
        """True if it makes sense to move the state, as far as is known."""
        return user_id not in self.failures or self.failures[user_id].retryable

    async def move_all(self, user_ids: list[str], until: float) -> None:
        """Move the states of these users, those under way together; none begins after ``until``, a time of
        the event loop. Raises StoreUnavailableError."""
        waiting = deque(user_ids)
        self._outage = None
        loop = asyncio.get_running_loop()

        async def work() -> None:
            while waiting and self._outage is None and loop.time() < until:
                await self._try(waiting.popleft())

        await asyncio.gather(*(work() for _ in range(min(TOGETHER, len(user_ids)))))
        if self._outage is not None:
            raise self._outage

    async def _try(self, user_id: str) -> None:
        try:
            moved = await self._move(user_id)
        except StoreUnavailableError as outage:
            self._outage = outage
            return
        except FlowError as error:
            self.failures[user_id] = error
            return
        except Exception as error:  # noqa: BLE001 - the others go on
            log.error("state cannot be moved", user=user_id, **describe(error))
            self.failures[user_id] = InternalError()
            return
        self.failures.pop(user_id, None)
        if moved:
            self.moved += 1
            self._progress(self.moved)

    async def _move(self, user_id: str) -> bool:
        async def decide(state: FlowState | None, now: datetime) -> ProposedChange | None:
            if state is None or not self.mapping.moves(state):
                return None  # it went on, was left, or somebody else moved it
            return self._decide(state, now)

        flow_id = self.mapping.old.flow.flow
        _, moved = await self._changes.execute(
            StateCommand(user_id, flow_id, "migrated", None, self._origin), decide
        )
        return moved

    def _decide(self, state: FlowState, now: datetime) -> ProposedChange:
        after = self.mapping.move(state, now)
        told = {
            "fromVersion": state.version,
            "toVersion": after.version,
            "fromStep": state.step,
            "toStep": after.step,
        }
        return ProposedChange("migrated", "migrated", after, told, self.mapping.new.flow.ttl)
