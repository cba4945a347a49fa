"""Load, decide, commit: the one way in which a command changes a state."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime

import structlog
from msgspec import UNSET, Struct

from app.contracts.commands import Origin
from app.contracts.errors import (
    FlowError,
    FlowNotStartedError,
    FlowStateCorruptionError,
    RevisionConflictError,
    StateBusyError,
)
from app.contracts.ports.clock import Clock
from app.contracts.ports.states import StateStore, StoredState
from app.contracts.positions import ExpectedPosition
from app.contracts.record import state_after
from app.contracts.state import ENDED, FlowState, state_key
from app.services.states.committer import CommandContext, Committer, ProposedChange
from app.services.states.deadlines import Deadlines
from app.services.states.idempotency import Idempotency, request_fingerprint
from app.services.states.recovery import Recovery
from app.services.states.turns import Turns

log = structlog.get_logger("executor")

PATIENCE_SECONDS = 10.0
"""How long a command waits for its turn, and decides again after other workers were first."""
LONGEST_PAUSE_SECONDS = 0.05

Decide = Callable[[FlowState | None, datetime], Awaitable[ProposedChange | None]]
"""Given the present state (None: there is none) and the time, what to change; None: nothing."""


class StateCommand(Struct, frozen=True):
    """A command on its way: whose state, by what ``name`` it is recorded, what it asks for, and
    where it comes from. ``replaces``: what is there does not matter to it. ``limited``: it counts among the
    changes that its caller may request in a minute; parts of a larger work, which counts once, do not."""

    user_id: str
    flow_id: str
    name: str
    command: object
    origin: Origin
    replaces: bool = False
    limited: bool = False


class Executor:
    """Runs commands against states."""

    def __init__(
        self,
        states: StateStore,
        commits: Committer,
        repeats: Idempotency,
        deadlines: Deadlines,
        recovery: Recovery,
        clock: Clock,
    ) -> None:
        self._states = states
        self._commits = commits
        self._repeats = repeats
        self._deadlines = deadlines
        self._recovery = recovery
        self._clock = clock
        self._turns = Turns()

    async def execute(self, request: StateCommand, decide: Decide) -> tuple[FlowState | None, bool]:
        """The state afterwards, and whether this request changed it: now, or when it came first.

        A lost race is decided again on the new state. Raises what ``decide`` raises,
        RevisionConflictError when the caller expected another position, InvalidRequestError
        when the request's id came with another command before, and StateBusyError.
        """
        if request.origin.dry_run:
            return await self._execute(request, decide, PATIENCE_SECONDS)
        began = asyncio.get_running_loop().time()
        try:
            async with self._turns.take(state_key(request.flow_id, request.user_id), PATIENCE_SECONDS):
                waited = asyncio.get_running_loop().time() - began
                return await self._execute(request, decide, PATIENCE_SECONDS - waited)
        except TimeoutError:
            raise StateBusyError(request.flow_id) from None

    async def _execute(
        self, request: StateCommand, decide: Decide, patience: float
    ) -> tuple[FlowState | None, bool]:
        origin = request.origin
        attempt = CommandContext(origin, request_fingerprint(request.name, request.command, origin))
        loop = asyncio.get_running_loop()
        until = loop.time() + patience
        for round_ in itertools.count():
            stored = await self._load(request)
            now = self._now(stored)
            if stored is not None and attempt.digest is not UNSET:
                answered = await self._repeats.answer(stored, origin, attempt.digest, now)
                if answered is not None:
                    return answered, True
            state = None if stored is None else stored.state
            due = None if state is None else await self._deadlines.due(state, now)
            if due is not None:
                change, by = due
                if not origin.dry_run:
                    await self._commits.make(stored, change, CommandContext(by), now)
                    continue
                state = change.after
            present = None if state is None or state.status in ENDED else state
            try:
                _check_position(present, origin.expected)
                decided = await decide(present, now)
            except FlowError as error:
                if stored is not None and present is not None and error.status < 500 and not origin.dry_run:
                    self._commits.refuse(stored, request.name, error, attempt, now)
                raise
            if decided is None:
                return present, False
            if origin.dry_run:
                return decided.after, True
            committed = await self._commits.make(stored, decided, attempt, now)
            if committed is not None:
                return state_after(committed), True
            if loop.time() > until:
                break
            pause = min(0.002 * round_, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - spreads rivals
        raise StateBusyError(request.flow_id)

    async def apply_due_change(self, state: FlowState) -> bool:
        """Make the change that is due on ``state``; False when none is, or it moved meanwhile."""
        stored = await self._states.load(state.flow, state.user_id)
        if stored is None or stored.state.position != state.position:
            return False
        now = self._now(stored)
        due = await self._deadlines.due(stored.state, now)
        if due is None:
            return False
        change, by = due
        return await self._commits.make(stored, change, CommandContext(by), now) is not None

    async def _load(self, request: StateCommand) -> StoredState | None:
        """The stored state. What cannot be read any more does not stand in the way of what replaces
        it: it is recovered first."""
        try:
            return await self._states.load(request.flow_id, request.user_id)
        except FlowStateCorruptionError:
            if not request.replaces or request.origin.dry_run:
                raise
            with suppress(FlowNotStartedError):  # somebody else was first, and it had ended
                await self._recovery.recover(request.user_id, request.flow_id, request.origin)
            return await self._states.load(request.flow_id, request.user_id)

    def _now(self, stored: StoredState | None) -> datetime:
        """Time never goes back within a state, whatever the clocks of the workers say."""
        now = self._clock.now()
        return now if stored is None else max(now, stored.state.updated_at)


def _check_position(
    state: FlowState | None, expected: ExpectedPosition | tuple[ExpectedPosition, ...] | None
) -> None:
    if expected is None:
        return
    if isinstance(expected, ExpectedPosition):
        expected = (expected,)
    if state is None:
        raise RevisionConflictError("There is no state to be at the expected revision", None)
    if not any(one.is_of(state.position) for one in expected):
        raise RevisionConflictError(f"{_present(state, expected)}; read it and decide again", state)


def _present(state: FlowState, expected: tuple[ExpectedPosition, ...]) -> str:
    """Where the state is instead of where it was expected."""
    if any(one.revision == state.revision for one in expected):
        return f"The state was started anew: it is at revision {state.revision} of epoch {state.epoch}"
    at = f"The state is at revision {state.revision}"
    revisions = [str(one.revision) for one in expected if one.revision is not None]
    return f"{at}, not {' or '.join(revisions)}" if revisions else at
