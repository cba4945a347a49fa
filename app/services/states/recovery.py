"""Recovery: finds out whether a state is sound, and rebuilds one that is not from its history."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Literal

import structlog
from msgspec import UNSET, Struct, structs

from app.contracts.commands import Origin, StartCommand
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
from app.contracts.state import ENDED, FlowState, state_key
from app.flow import rules
from app.flow.history_chain import is_erased, is_intact
from app.flow.position import definition_mismatch
from app.kit.ids import later_id, new_id
from app.services.definitions.catalog import DefinitionCatalog
from app.services.delivery.payloads import Payloads
from app.services.states.committer import CommandContext, Committer, ProposedChange

log = structlog.get_logger("recovery")

PAGE = 50
ROUNDS = 10
PLAUSIBLE_LEAD = 1000
"""How far a damaged document's revision may be before its history and still be believed."""


class Inconsistency(Struct, frozen=True):
    """The fault of a state. ``of_history``: its record is, and the state itself fits."""

    reason: str
    of_history: bool = False


class Recovery:
    """Examines and recovers states. ``pruned``: old records of the history may be gone."""

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

    async def recover(self, user_id: str, flow_id: str, origin: Origin) -> Recovered:
        """Rebuild a state from its history if it is not sound. Raises FlowNotStartedError when there is
        nothing to recover, FlowNotFoundError."""
        # The request behind it is not answered by the recovery, but by what comes after.
        origin = structs.replace(origin, request_id=UNSET, expected=None)
        for _ in range(ROUNDS):
            found = await self._states.load_or_salvage(flow_id, user_id)
            unsound = await self.find_inconsistency(found) if found is not None else None
            if isinstance(found, StoredState) and (unsound is None or unsound.of_history):
                if found.state.is_gone_at(self._clock.now()):
                    raise FlowNotStartedError(flow_id)
                return Recovered("kept", found.state, None if unsound is None else unsound.reason)
            reason = "the state's document is lost" if unsound is None else unsound.reason
            plan = await self._plan(user_id, flow_id, found, reason)
            change, now = await self._change(plan, user_id, flow_id, found)
            damaged = _as_damaged(found, reason) if found is not None else None
            made = await self._commits.replace(damaged, plan.head, change, CommandContext(origin), now)
            if made is not None:
                after = state_after(made)
                await self._reports.withdraw([state_key(flow_id, user_id)])
                log.warning("state recovered", state=after.key, action=plan.action, reason=reason)
                state = None if after.status in ENDED else after
                return Recovered(plan.action, state, reason, None if plan.record is None else plan.record.id)
        raise StateBusyError(flow_id)

    async def with_advice(
        self, user_id: str, flow_id: str, damage: FlowStateCorruptionError
    ) -> FlowStateCorruptionError:
        """The error with what a recovery would do."""
        reason = damage.details["reason"]
        try:
            found = await self._states.load_or_salvage(flow_id, user_id)
            plan = await self._plan(user_id, flow_id, found, reason)
        except FlowError:
            return damage
        return FlowStateCorruptionError(user_id, flow_id, reason, recover=plan.told)

    async def find_inconsistency(self, found: StoredState | DamagedState) -> Inconsistency | None:
        """Find the fault of a state; None if it fits its definition and its last record."""
        if isinstance(found, DamagedState):
            return Inconsistency(found.reason)
        state = found.state
        fault = None if state.status in ENDED else await self._misfit(state)
        if fault is not None:
            return Inconsistency(fault)
        waiting = [record for record in found.pending if record.id == commit_record_id(state)]
        last = waiting[-1] if waiting else await self._history.newest(state.flow, state.user_id)
        if isinstance(last, HistoryRecord):
            (last,) = await self._payloads.complete([last], found.pending)
        unsound = self._compare(found, last)
        if unsound is not None and not waiting:
            now = await self._states.load_or_salvage(state.flow, state.user_id)
            if isinstance(now, StoredState) and now.state.position != state.position:
                return None  # it was changed meanwhile: what was compared was of two moments
        return unsound

    def _compare(
        self, found: StoredState, last: HistoryRecord | UnreadableRecord | None
    ) -> Inconsistency | None:
        state = found.state
        revision = state.revision
        if last is not None and (last.epoch, last.revision) > (state.epoch, revision):
            return Inconsistency(f"its history goes further, to {last.epoch}.{last.revision}")
        if self._pruned and (last is None or (last.epoch, last.revision) < (state.epoch, revision)):
            return None  # the record may have been kept for its time, and gone
        if last is None:
            return Inconsistency("its history is missing", of_history=True)
        if last.epoch != state.epoch or revision - last.revision > PLAUSIBLE_LEAD:
            return Inconsistency(f"its history ends at {last.epoch}.{last.revision}")
        if last.revision != revision:
            return Inconsistency(f"the record of its revision {revision} is missing", of_history=True)
        if isinstance(last, UnreadableRecord):
            return Inconsistency(f"the record of its revision {revision} cannot be read", of_history=True)
        made = last.after
        if made is not UNSET and named_payload(last) is not None:
            if not self._pruned:
                gone = f"the payload of its revision {revision}, in the record of revision "
                return Inconsistency(
                    f"{gone}{last.payload_revision}, is missing or was changed", of_history=True
                )
            made = structs.replace(made, payload=state.payload)
        same = made == state
        if not is_intact(last):
            return Inconsistency(f"the record of its revision {revision} was changed", of_history=not same)
        if not same:
            return Inconsistency(f"it is not as its revision {revision} left it")
        if found.head != (last.hash or ""):
            return Inconsistency("its link to the history was changed")
        return None

    async def _plan(
        self, user_id: str, flow_id: str, found: StoredState | DamagedState | None, reason: str
    ) -> "_Plan":
        newest: HistoryRecord | UnreadableRecord | None = None
        head = ""
        async for record in self._newest_first(user_id, flow_id, found):
            newest = newest or record
            if isinstance(record, UnreadableRecord) or record.after is UNSET:
                continue
            head = head or record.hash or ""
            if not is_intact(record) or await self._misfit(record.after) is not None:
                continue
            (whole,) = await self._payloads.complete([record], () if found is None else found.pending)
            if named_payload(whole) is None:
                return _Plan("rebuilt", reason, head, newest, record, state_after(whole))
        if newest is None and found is None:
            await self._catalog.current(flow_id)
            raise FlowNotStartedError(flow_id)
        own = found.state if newest is None and found is not None else None
        if own is not None and await self._misfit(own) is None:
            return _Plan("rebuilt", reason, head, None, None, own)
        return _Plan("restarted", reason, head, newest)

    async def _newest_first(
        self, user_id: str, flow_id: str, found: StoredState | DamagedState | None
    ) -> AsyncIterator[HistoryRecord | UnreadableRecord]:
        pending: Sequence[HistoryRecord] = () if found is None else found.pending
        for record in reversed(pending):
            yield record
        seen = {record.id for record in pending}
        start: HistoryPosition | None = None
        while True:
            page = await self._history.scan(flow_id, user_id, start, PAGE, backwards=True)
            for older in page.items:
                if older.id not in seen:
                    yield older
            if page.next is None:
                return
            before, start = start, position_of(page.items[-1])
            if before is not None and start >= before:
                return

    async def _misfit(self, state: FlowState) -> str | None:
        """Describe what in a state does not fit its definition."""
        definition = await self._catalog.version(state.flow, state.version)
        if definition is None:
            return f"version {state.version} of the flow does not exist"
        return definition_mismatch(definition, state)

    async def _change(
        self, plan: "_Plan", user_id: str, flow_id: str, found: StoredState | DamagedState | None
    ) -> tuple[ProposedChange, datetime]:
        now = self._clock.now()
        if plan.last is None:
            definition = await self._catalog.newest(flow_id)
            if definition is None:
                raise FlowNotFoundError(flow_id)
            epoch = new_id() if plan.newest is None else later_id(plan.newest.epoch, new_id())
            after = rules.start(definition, user_id, epoch, StartCommand(), now)
            return ProposedChange("recovered", "recovered", after, plan.told, definition.flow.ttl), now
        last = plan.last
        if found is None and last.is_gone_at(now):
            raise FlowNotStartedError(flow_id)
        definition = await self._catalog.pinned(last)
        now = max(now, last.updated_at)
        after = rules.recover(last, *plan.position(found), now)
        if last.status not in ENDED and (last.is_gone_at(now) or plan.erased):
            ended = rules.end(after, "cleared" if plan.erased else "expired", now)
            after = structs.replace(ended, revision=after.revision)
        return ProposedChange("recovered", "recovered", after, plan.told, definition.flow.ttl), now


class _Plan(Struct, frozen=True):
    """``record`` is the last valid one, ``last`` the state that it led to, ``newest`` the last record at
    all, ``head`` the last hash."""

    action: Literal["rebuilt", "restarted"]
    reason: str
    head: str
    newest: HistoryRecord | UnreadableRecord | None
    record: HistoryRecord | None = None
    last: FlowState | None = None

    @property
    def erased(self) -> bool:
        """True if the user's data was erased: then there is nothing to come back to."""
        return self.record is not None and is_erased(self.record)

    @property
    def told(self) -> dict[str, Any]:
        """Describe the repair for people; recorded with it."""
        told = {"action": self.action, "reason": self.reason}
        if self.last is not None:
            told["step"] = self.last.step
        if self.record is not None:
            told["record"] = self.record.id
        return told

    def position(self, found: StoredState | DamagedState | None) -> tuple[str, int]:
        """An epoch and a revision that come after all that are known, so that no client that saw one of
        them takes the recovered state for an older one. A life that cannot be known to its end, as its
        document is lost or of another life, is not gone on with."""
        position = None
        if isinstance(found, DamagedState):
            position = found.position
        elif isinstance(found, StoredState):
            position = found.state.position
        newest = self.newest or self.last
        if newest is None:
            return new_id(), 0
        epoch, revision = newest.epoch, newest.revision
        if position is None:
            return later_id(epoch, new_id()), 0
        if isinstance(position.epoch, str) and position.epoch > epoch:
            return later_id(position.epoch, new_id()), 0
        if position.epoch != epoch or type(position.revision) is not int:
            return epoch, revision + 1
        if 0 < position.revision - revision <= PLAUSIBLE_LEAD:
            revision = position.revision
        return epoch, revision + 1


def _as_damaged(found: StoredState | DamagedState, reason: str) -> DamagedState:
    if isinstance(found, DamagedState):
        return found
    return DamagedState(found.state.position, reason, found.state, found.head, found.pending, found.recent)
