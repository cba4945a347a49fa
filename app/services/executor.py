"""Load, decide, commit: the one way in which a state changes."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from msgspec import UNSET, Struct, UnsetType, structs
from uuid_utils import uuid7

from app.contracts.command import ExpectedPosition, Origin
from app.contracts.errors import FlowError, RevisionConflictError
from app.contracts.ports import Clock, StateStore, StoredState
from app.contracts.record import HistoryRecord, Kind, commit_record_id
from app.contracts.state import ENDED, FlowState, Payload
from app.flow import rules
from app.services.relay import Relay

ATTEMPTS = 50
SYSTEM = Origin(actor="system")


class Change(Struct, frozen=True):
    """What a command makes of a state. ``name`` is the transition's, or the kind."""

    kind: Kind
    name: str
    after: FlowState
    payload: Payload | UnsetType = UNSET


Decide = Callable[[FlowState | None, datetime], Awaitable[Change | None]]
"""Given the present state (None: there is none) and the time, what to change; None: nothing."""


class Executor:
    """Runs commands against states."""

    def __init__(self, states: StateStore, relay: Relay, clock: Clock, state_ttl: timedelta | None) -> None:
        self._states = states
        self._relay = relay
        self._clock = clock
        self._state_ttl = state_ttl

    async def execute(
        self, flow_id: str, user_id: str, name: str, origin: Origin, decide: Decide
    ) -> tuple[FlowState | None, bool]:
        """The state afterwards, and whether this command changed it.

        A lost race is decided again on the new state. Raises what ``decide`` raises, and
        RevisionConflictError when the caller expected another position.
        """
        began = time.perf_counter()
        present: FlowState | None = None
        for attempt in range(ATTEMPTS):
            stored = await self._states.load(flow_id, user_id)
            now = self._now(stored)
            if stored is not None and stored.state.absent_at(now) and stored.state.status not in ENDED:
                await self._commit(stored, expiry(stored.state, now), SYSTEM, now, began)
                continue
            present = stored.state if stored is not None and stored.state.status not in ENDED else None
            try:
                _check_position(present, origin.expected)
                change = await decide(present, now)
            except FlowError as error:
                if present is not None and error.status < 500:
                    self._relay.take([_refusal(present, name, error, origin, now, began)])
                raise
            if change is None:
                return present, False
            committed = await self._commit(stored, change, origin, now, began)
            if committed is not None:
                return committed, True
            await asyncio.sleep(random.uniform(0, 0.002 * min(attempt, 10)))  # noqa: S311 - spreads rivals
        raise RevisionConflictError("The state kept changing meanwhile; try again", present)

    async def expire(self, state: FlowState) -> bool:
        """End a state that is past its time; False when it moved meanwhile."""
        now = max(self._clock.now(), state.updated_at)
        stored = StoredState(state=state)
        return await self._commit(stored, expiry(state, now), SYSTEM, now, time.perf_counter()) is not None

    def _now(self, stored: StoredState | None) -> datetime:
        """Time never goes back within a state, whatever the clocks of the workers say."""
        now = self._clock.now()
        return now if stored is None else max(now, stored.state.updated_at)

    async def _commit(
        self, stored: StoredState | None, change: Change, origin: Origin, now: datetime, began: float
    ) -> FlowState | None:
        """The committed state, None when somebody else was first."""
        after = change.after
        if after.status not in ENDED and self._state_ttl is not None:
            after = structs.replace(after, expires_at=now + self._state_ttl)
        before = stored.state if stored is not None else None
        record = HistoryRecord(
            id=commit_record_id(after),
            commit_id=str(uuid7()),
            flow_id=after.flow,
            user_id=after.user_id,
            epoch=after.epoch,
            revision=after.revision,
            version=after.version,
            kind=change.kind,
            transition=change.name,
            from_step="" if before is None or change.kind == "started" else before.step,
            to_step=after.step,
            timestamp=now,
            success=True,
            service=after.service,
            actor=origin.actor,
            payload=change.payload,
            after=after,
            request_id=origin.request_id,
            client=origin.client,
        )
        if not await self._states.commit(before, record):
            return None
        # Who commits on top of records that still wait delivers those first: every worker then
        # hears the changes of a state in their order, whoever made them.
        waiting = stored.pending if stored is not None else ()
        self._relay.take((*waiting, structs.replace(record, duration_ms=_since(began))))
        return after


def expiry(state: FlowState, now: datetime) -> Change:
    """The change that ends a state past its time."""
    return Change("expired", "expired", rules.end(state, "expired", now))


def _check_position(state: FlowState | None, expected: ExpectedPosition | None) -> None:
    if expected is None:
        return
    if state is None:
        raise RevisionConflictError("There is no state to be at the expected revision", None)
    if state.revision != expected.revision or expected.epoch not in (None, state.epoch):
        raise RevisionConflictError(
            f"The state is at revision {state.revision}, not {expected.revision}", state
        )


def _refusal(  # noqa: PLR0917 - a record is what it is
    state: FlowState, name: str, error: FlowError, origin: Origin, now: datetime, began: float
) -> HistoryRecord:
    attempt = str(uuid7())
    return HistoryRecord(
        id=f"{commit_record_id(state)}:{attempt}",
        commit_id=attempt,
        flow_id=state.flow,
        user_id=state.user_id,
        epoch=state.epoch,
        revision=state.revision,
        version=state.version,
        kind="refused",
        transition=name[:64],
        from_step=state.step,
        to_step=state.step,
        timestamp=now,
        success=False,
        service=state.service,
        actor=origin.actor,
        error=error.code,
        request_id=origin.request_id,
        client=origin.client,
        duration_ms=_since(began),
    )


def _since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 3)
