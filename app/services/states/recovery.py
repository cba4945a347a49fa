"""Recovery: finds out whether a state is sound, and rebuilds one that is not from its history."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

import structlog
from msgspec import UNSET, structs

from app.contracts.commands import Origin
from app.contracts.definition import FlowDefinition
from app.contracts.errors import (
    FlowError,
    FlowNotFoundError,
    FlowNotStartedError,
    FlowStateCorruptionError,
    StateBusyError,
)
from app.contracts.ports.clock import Clock
from app.contracts.ports.history import HistoryStore
from app.contracts.ports.reports import CorruptionReports
from app.contracts.ports.states import DamagedState, StateStore, StoredState
from app.contracts.record import (
    HistoryPosition,
    HistoryRecord,
    UnreadableRecord,
    commit_record_id,
    named_payload,
    position_of,
    state_after,
)
from app.contracts.results import Recovered
from app.contracts.state import TERMINAL_STATUSES, FlowState, StateId
from app.flow.history_chain import is_intact
from app.flow.position import definition_mismatch
from app.services.definitions.catalog import DefinitionCatalog
from app.services.delivery.payloads import Payloads
from app.services.states.committer import CommandContext, Committer
from app.services.states.consistency import Inconsistency, compare_with_last_record
from app.services.states.recovery_plan import Found, RecoveryPlan
from app.services.states.state_command import ProposedChange

log = structlog.get_logger("recovery")

PAGE_SIZE = 50
MAX_ATTEMPTS = 10


class Recovery:
    """Checks and recovers states. ``pruned``: old records of the history may have been removed."""

    def __init__(
        self,
        states: StateStore,
        history: HistoryStore,
        catalog: DefinitionCatalog,
        commits: Committer,
        reports: CorruptionReports,
        clock: Clock,
        *,
        pruned: bool,
    ) -> None:
        self._states = states
        self._history = history
        self._payloads = Payloads(history)
        self._catalog = catalog
        self._commits = commits
        self._reports = reports
        self._clock = clock
        self._pruned = pruned

    async def recover(self, state_id: StateId, origin: Origin) -> Recovered:
        """Rebuild a state from its history if it is not sound.

        Raises:
            FlowNotStartedError: There is nothing to recover.
            FlowNotFoundError: There is no such flow.
            StateBusyError: Others changed the state again and again.
        """
        # The request behind it is not answered by the recovery, but by what comes after.
        origin = structs.replace(origin, request_id=UNSET, expected=None)
        for _ in range(MAX_ATTEMPTS):
            found = await self._states.load_or_salvage(state_id)
            inconsistency = await self.find_inconsistency(found) if found is not None else None
            if isinstance(found, StoredState) and (inconsistency is None or inconsistency.of_history):
                if found.state.is_gone_at(self._clock.now()):
                    raise FlowNotStartedError(state_id.flow_id)
                return Recovered("kept", found.state, None if inconsistency is None else inconsistency.reason)
            reason = "the state's document is lost" if inconsistency is None else inconsistency.reason
            plan = await self._plan(state_id, found, reason)
            change, now = await self._change(plan, state_id, found)
            damaged = _as_damaged(found, reason) if found is not None else None
            made = await self._commits.replace(damaged, plan.head, change, CommandContext(origin), now)
            if made is not None:
                after = state_after(made)
                await self._reports.withdraw([state_id.key])
                log.warning("state recovered", state=after.key, action=plan.action, reason=reason)
                state = None if after.status in TERMINAL_STATUSES else after
                return Recovered(plan.action, state, reason, None if plan.record is None else plan.record.id)
        raise StateBusyError(state_id.flow_id)

    async def with_advice(
        self, state_id: StateId, damage: FlowStateCorruptionError
    ) -> FlowStateCorruptionError:
        """Return the error with what a recovery would do."""
        reason = damage.details["reason"]
        try:
            found = await self._states.load_or_salvage(state_id)
            plan = await self._plan(state_id, found, reason)
        except FlowError:
            return damage
        return FlowStateCorruptionError(state_id.user_id, state_id.flow_id, reason, recover=plan.description)

    async def find_inconsistency(self, found: Found) -> Inconsistency | None:
        """Find what is wrong with a state; None if it fits its definition and its last record."""
        if isinstance(found, DamagedState):
            return Inconsistency(found.reason)
        if found.erased:
            return None  # no key opens what it would be rebuilt from, and the next command ends it
        state = found.state
        mismatch = None if state.status in TERMINAL_STATUSES else await self._definition_mismatch(state)
        if mismatch is not None:
            return Inconsistency(mismatch)
        waiting = [record for record in found.pending if record.id == commit_record_id(state)]
        last = waiting[-1] if waiting else await self._history.newest(state.id)
        if isinstance(last, HistoryRecord):
            (last,) = await self._payloads.complete([last], found.pending)
        inconsistency = compare_with_last_record(found, last, pruned=self._pruned)
        if inconsistency is not None and not waiting:
            now = await self._states.load_or_salvage(state.id)
            if isinstance(now, StoredState) and now.state.position != state.position:
                return None  # it has changed meanwhile: state and record were read at two moments
        return inconsistency

    async def _plan(self, state_id: StateId, found: Found | None, reason: str) -> RecoveryPlan:
        """Search for the last valid record, newest first.

        Raises:
            FlowNotStartedError: There is neither a document nor a record.
        """
        newest: HistoryRecord | UnreadableRecord | None = None
        head = ""
        async for record in self._newest_first(state_id, found):
            newest = newest or record
            if isinstance(record, UnreadableRecord) or record.after is UNSET:
                continue
            head = head or record.hash or ""
            if not is_intact(record) or await self._definition_mismatch(record.after) is not None:
                continue
            (whole,) = await self._payloads.complete([record], () if found is None else found.pending)
            if named_payload(whole) is None:
                return RecoveryPlan("rebuilt", reason, head, newest, record, state_after(whole))
        if newest is None and found is None:
            await self._catalog.current(state_id.flow_id)
            raise FlowNotStartedError(state_id.flow_id)
        own = found.state if newest is None and found is not None else None
        if own is not None and await self._definition_mismatch(own) is None:
            return RecoveryPlan("rebuilt", reason, head, None, None, own)
        return RecoveryPlan("restarted", reason, head, newest)

    async def _newest_first(
        self, state_id: StateId, found: Found | None
    ) -> AsyncIterator[HistoryRecord | UnreadableRecord]:
        pending: Sequence[HistoryRecord] = () if found is None else found.pending
        for record in reversed(pending):
            yield record
        seen = {record.id for record in pending}
        start: HistoryPosition | None = None
        while True:
            page = await self._history.scan(state_id, start, PAGE_SIZE, backwards=True)
            for older in page.items:
                if older.id not in seen:
                    yield older
            if page.next is None:
                return
            before, start = start, position_of(page.items[-1])
            if before is not None and start >= before:
                return

    async def _definition_mismatch(self, state: FlowState) -> str | None:
        """Return what in a state does not fit its definition, None if it fits."""
        definition = await self._catalog.version(state.flow, state.version)
        if definition is None:
            return f"version {state.version} of the flow does not exist"
        return definition_mismatch(definition, state)

    async def _change(
        self, plan: RecoveryPlan, state_id: StateId, found: Found | None
    ) -> tuple[ProposedChange, datetime]:
        now = self._clock.now()
        definition: FlowDefinition | None
        if plan.last is not None:
            definition = await self._catalog.pinned(plan.last)
        else:
            definition = await self._catalog.newest(state_id.flow_id)
        if definition is None:
            raise FlowNotFoundError(state_id.flow_id)
        return plan.change(state_id, found, definition, now)


def _as_damaged(found: Found, reason: str) -> DamagedState:
    if isinstance(found, DamagedState):
        return found
    return DamagedState(found.state.position, reason, found.state, found.head, found.pending, found.recent)
