"""Load, decide, commit: the one way in which a state changes."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from msgspec import UNSET, Struct, UnsetType, structs
from uuid_utils import uuid7

from app.contracts.command import ExpectedPosition, Origin
from app.contracts.errors import FlowError, FlowStateCorruptionError, RevisionConflictError
from app.contracts.ports import MEMORY, Clock, StateStore, StoredState
from app.contracts.record import HistoryRecord, Kind, commit_record_id
from app.contracts.state import ENDED, FlowState, Payload
from app.flow import rules
from app.services.relay import Relay
from app.services.repeats import Repeats, digest_of

log = structlog.get_logger("executor")

ROUNDS = 50
SYSTEM = Origin(actor="system")


class Change(Struct, frozen=True):
    """What a command makes of a state. ``name`` is the transition's, or the kind; ``ttl`` how long
    the state lives from now (None: as the settings say)."""

    kind: Kind
    name: str
    after: FlowState
    payload: Payload | UnsetType = UNSET
    ttl: timedelta | None = None


Decide = Callable[[FlowState | None, datetime], Awaitable[Change | None]]
"""Given the present state (None: there is none) and the time, what to change; None: nothing."""


class Request(Struct, frozen=True):
    """A command on its way: whose state, by what ``name`` it is recorded, what it asks for, and
    where it comes from. ``replaces``: what is there does not matter to it."""

    user_id: str
    flow_id: str
    name: str
    command: object
    origin: Origin
    replaces: bool = False


class Executor:
    """Runs commands against states."""

    def __init__(
        self, states: StateStore, repeats: Repeats, relay: Relay, clock: Clock, state_ttl: timedelta | None
    ) -> None:
        self._states = states
        self._repeats = repeats
        self._relay = relay
        self._clock = clock
        self._state_ttl = state_ttl

    async def execute(self, request: Request, decide: Decide) -> tuple[FlowState | None, bool]:
        """The state afterwards, and whether this request changed it: now, or when it came first.

        A lost race is decided again on the new state. Raises what ``decide`` raises,
        RevisionConflictError when the caller expected another position, and InvalidRequestError
        when the request's id came with another command before.
        """
        attempt = _Attempt(request.origin, digest_of(request.name, request.command, request.origin))
        present: FlowState | None = None
        for round_ in range(ROUNDS):
            stored = await self._load(request)
            now = self._now(stored)
            if stored is not None and attempt.digest is not UNSET:
                answered = await self._repeats.answer(stored, request.origin, attempt.digest, now)
                if answered is not None:
                    return answered, True
            if stored is not None and stored.state.absent_at(now) and stored.state.status not in ENDED:
                await self._commit(stored, expiry(stored.state, now), _Attempt(SYSTEM), now)
                continue
            present = stored.state if stored is not None and stored.state.status not in ENDED else None
            try:
                _check_position(present, request.origin.expected)
                change = await decide(present, now)
            except FlowError as error:
                if present is not None and error.status < 500:
                    self._relay.take([_refusal(present, request.name, error, attempt, now)])
                raise
            if change is None:
                return present, False
            committed = await self._commit(stored, change, attempt, now)
            if committed is not None:
                return committed, True
            await asyncio.sleep(random.uniform(0, 0.002 * min(round_, 10)))  # noqa: S311 - spreads rivals
        raise RevisionConflictError("The state kept changing meanwhile; try again", present)

    async def expire(self, state: FlowState) -> bool:
        """End a state that is past its time; False when it moved meanwhile."""
        stored = await self._states.load(state.flow, state.user_id)
        if stored is None or stored.state != state:
            return False
        now = self._now(stored)
        return await self._commit(stored, expiry(state, now), _Attempt(SYSTEM), now) is not None

    async def _load(self, request: Request) -> StoredState | None:
        """The stored state. What cannot be read any more does not stand in the way of what replaces
        it: it is set aside, and there is no state."""
        try:
            return await self._states.load(request.flow_id, request.user_id)
        except FlowStateCorruptionError as damage:
            if not request.replaces:
                raise
            log.error("damaged state set aside", flow=request.flow_id, reason=damage.details["reason"])
            await self._states.set_aside(request.flow_id, request.user_id)
            return None

    def _now(self, stored: StoredState | None) -> datetime:
        """Time never goes back within a state, whatever the clocks of the workers say."""
        now = self._clock.now()
        return now if stored is None else max(now, stored.state.updated_at)

    async def _commit(
        self, stored: StoredState | None, change: Change, attempt: "_Attempt", now: datetime
    ) -> FlowState | None:
        """The committed state, None when somebody else was first."""
        after = change.after
        if after.status in ENDED:  # kept for a while, so that repeated requests are recognised
            after = structs.replace(after, expires_at=now + MEMORY)
        else:
            ttl = change.ttl or self._state_ttl
            after = structs.replace(after, expires_at=UNSET if ttl is None else now + ttl)
        before = stored.state if stored is not None else None
        if before is not None and before.epoch != after.epoch:
            after = structs.replace(after, epoch=_later(before.epoch, after.epoch))
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
            from_step="" if before is None or before.epoch != after.epoch else before.step,
            to_step=after.step,
            timestamp=now,
            success=True,
            service=after.service,
            actor=attempt.origin.actor,
            payload=change.payload,
            after=after,
            request_id=attempt.origin.request_id,
            digest=attempt.digest,
            client=attempt.origin.client,
        )
        if not await self._states.commit(before, record):
            return None
        # Who commits on top of records that still wait delivers those first: every worker then
        # hears the changes of a state in their order, whoever made them.
        waiting = stored.pending if stored is not None else ()
        self._relay.take((*waiting, structs.replace(record, duration_ms=attempt.milliseconds)))
        return after


class _Attempt:
    """What is recorded of a command beside the change: who, and how long it took."""

    def __init__(self, origin: Origin, digest: str | UnsetType = UNSET) -> None:
        self.origin = origin
        self.digest = digest
        self._began = time.perf_counter()

    @property
    def milliseconds(self) -> float:
        """Since it began."""
        return round((time.perf_counter() - self._began) * 1000, 3)


def _later(last: str, fresh: str) -> str:
    """An epoch that sorts after the last one, also when this worker's clock is behind."""
    return fresh if fresh > last else str(UUID(int=UUID(last).int + 1))


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


def _refusal(
    state: FlowState, name: str, error: FlowError, attempt: _Attempt, now: datetime
) -> HistoryRecord:
    commit = str(uuid7())
    return HistoryRecord(
        id=f"{commit_record_id(state)}:{commit}",
        commit_id=commit,
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
        actor=attempt.origin.actor,
        error=error.code,
        request_id=attempt.origin.request_id,
        client=attempt.origin.client,
        duration_ms=attempt.milliseconds,
    )
