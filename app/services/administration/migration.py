"""Migration: the differences of two versions, and the move of running states between them."""

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import datetime

import structlog
from msgspec import UNSET, structs

from app.contracts.audit import Details
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
from app.contracts.state import FlowState, StateId
from app.contracts.wire.errors import error_view
from app.flow.versions.diff import diff
from app.flow.versions.mapping import StepMapping
from app.flow.versions.rehearsal import Rehearsal, rehearse
from app.services.audit.log import AuditLog
from app.services.definitions.publisher import Definitions
from app.services.states.changes import StateChanges
from app.services.states.state_command import ProposedChange, StateCommand
from config.log import describe

log = structlog.get_logger("migration")

CONCURRENCY = 50
"""States that are moved at a time: their loads and commits share commands, which delay other requests."""
MAX_PASSES = 10
PAUSE_SECONDS = 1.0
"""The pause after the database stopped answering."""
MAX_SECONDS = 20.0
"""How long one call moves states: its caller must not run into a timeout."""

Progress = Callable[[int], None]
"""Called with the number of states moved so far."""


class Migration:
    """Compares versions and moves states.

    A move is conditional on the position of the state, as any change, and decided again if that has changed.
    So transitions may continue meanwhile.
    """

    def __init__(
        self,
        states: StateStore,
        changes: StateChanges,
        definitions: Definitions,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._states = states
        self._audit = audit
        self._changes = changes
        self._definitions = definitions
        self._clock = clock

    async def diff(self, flow_id: str, earlier: int, later: int, caller: Caller) -> FlowDiff:
        """Compare version ``later`` with ``earlier``, with the effect on running states.

        Raises:
            FlowNotFoundError: There is no such flow or version.
            InsufficientPermissionsError: The caller must not see the flow.
        """
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
        """Move running states, or rehearse the move.

        A call ends after ``command.limit`` states or some seconds. As long as it moved states and some are
        remaining, the same call again continues.

        Raises:
            FlowNotFoundError: There is no such flow or version.
            InvalidRequestError: The mapping has faults, or running states are at steps that it does not map.
                All faults are listed.
        """
        mapping = await self._mapping(flow_id, command, origin.caller)
        rehearsal = await self._rehearse(mapping)
        if command.dry_run:
            return await self._report(mapping, rehearsal, None)
        if rehearsal.unmapped:
            raise InvalidRequestError(rehearsal.unmapped)
        versions: Details = {"fromVersion": command.from_version, "toVersion": command.to_version}
        target = f"flow:{flow_id}"
        async with self._audit.act("states.migrate", target, origin.caller, details=versions) as act:
            run = _Run(self._changes, mapping, structs.replace(origin, audited=True), progress)
            try:
                await self._move(run, command.limit)
            finally:
                act.details.update(moved=run.moved, failed=len(run.failures))
        return await self._report(mapping, rehearsal, run)

    async def _mapping(self, flow_id: str, command: MigrateCommand, caller: Caller) -> StepMapping:
        old = await self._definitions.version(flow_id, command.from_version, caller)
        new = await self._definitions.version(flow_id, command.to_version, caller)
        mapping = StepMapping(old, new, command.mapping)
        faults = [Fault(f"/mapping{fault.pointer}", fault.message) for fault in mapping.faults()]
        if new.version == old.version:
            faults.append(Fault("/to", "must be another version than the one that the states run on"))
        if new.retired:
            faults.append(
                Fault(
                    "/to",
                    f"must be a version that states can run on; version {new.version} is the end of the flow",
                )
            )
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
        """Move states in passes, until one finds no more.

        Meanwhile a worker that does not know the new version yet may start states on the old one.

        Raises:
            StoreUnavailableError: The database did not answer, and a pass moved no state.
        """
        mapping = run.mapping
        left = [step for step in mapping.given if mapping.leaves(step)]
        deadline = asyncio.get_running_loop().time() + MAX_SECONDS
        for _ in range(MAX_PASSES):
            wanted = limit - run.moved
            if not wanted:
                return
            found = await self._states.list_running(
                mapping.old.flow.flow,
                mapping.old.version,
                left,
                wanted + len(run.failures),
                self._clock.now(),
            )
            chosen = [state_id for state_id in found if run.may_try(state_id)][:wanted]
            if not chosen:
                return
            before = run.moved
            try:
                await run.move_all(chosen, deadline)
            except StoreUnavailableError:
                if run.moved == before:
                    raise
                await asyncio.sleep(PAUSE_SECONDS)
            if asyncio.get_running_loop().time() >= deadline:
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
                MigrationFailure(state_id.user_id, error_view(error), state_id.instance_id or UNSET)
                for state_id, error in sorted(failures.items(), key=lambda item: item[0].key)[
                    :MAX_LISTED_FAILURES
                ]
            ],
        )
        if run is not None:
            counts = {"moved": report.moved, "failed": report.failed, "remaining": remaining}
            versions = {"old": report.from_version, "new": report.to_version}
            log.info("states migrated", flow=report.flow, **versions, **counts)
        return report


class _Run:
    """The moves of one call.

    Attributes:
        mapping: The steps of both versions.
        moved: The number of states moved so far.
        failures: The errors of states that could not be moved.
    """

    def __init__(
        self, changes: StateChanges, mapping: StepMapping, origin: Origin, progress: Progress
    ) -> None:
        self._changes = changes
        # The conditions and the request id of the whole run do not apply to a single state.
        self._origin = structs.replace(origin, request_id=UNSET, expected=None, dry_run=False)
        self._progress = progress
        self._outage: StoreUnavailableError | None = None
        self.mapping = mapping
        self.moved = 0
        self.failures: dict[StateId, FlowError] = {}

    def may_try(self, state_id: StateId) -> bool:
        """Return true unless moving the state failed with an error that a retry cannot mend."""
        return state_id not in self.failures or self.failures[state_id].retryable

    async def move_all(self, state_ids: list[StateId], deadline: float) -> None:
        """Move states, some at a time. Raises StoreUnavailableError.

        Args:
            state_ids: The states.
            deadline: The time of the event loop after which no move starts.
        """
        waiting = deque(state_ids)
        self._outage = None
        loop = asyncio.get_running_loop()

        async def work() -> None:
            while waiting and self._outage is None and loop.time() < deadline:
                await self._try(waiting.popleft())

        await asyncio.gather(*(work() for _ in range(min(CONCURRENCY, len(state_ids)))))
        if self._outage is not None:
            raise self._outage

    async def _try(self, state_id: StateId) -> None:
        try:
            moved = await self._move(state_id)
        except StoreUnavailableError as outage:
            self._outage = outage
            return
        except FlowError as error:
            self.failures[state_id] = error
            return
        except Exception as error:  # noqa: BLE001 - the other states are moved
            log.error("state not migrated", state=state_id.key, **describe(error))
            self.failures[state_id] = InternalError()
            return
        self.failures.pop(state_id, None)
        if moved:
            self.moved += 1
            self._progress(self.moved)

    async def _move(self, state_id: StateId) -> bool:
        async def decide(state: FlowState | None, now: datetime) -> ProposedChange | None:
            if state is None or not self.mapping.moves(state):
                return None  # it has changed its step, or another call moved it
            return self._decide(state, now)

        _, moved = await self._changes.execute(StateCommand(state_id, "migrated", None, self._origin), decide)
        return moved

    def _decide(self, state: FlowState, now: datetime) -> ProposedChange:
        after = self.mapping.move(state, now)
        payload = {
            "fromVersion": state.version,
            "toVersion": after.version,
            "fromStep": state.step,
            "toStep": after.step,
        }
        return ProposedChange("migrated", "migrated", after, payload, self.mapping.new.flow.ttl)
