"""Execution of commands: load, decide, commit."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime

import structlog
from msgspec import UNSET

from app.contracts.errors import (
    FlowError,
    FlowNotStartedError,
    FlowStateCorruptionError,
    StateBusyError,
)
from app.contracts.ports.clock import Clock
from app.contracts.ports.states import StateStore, StoredState
from app.contracts.record import MergedField, state_after
from app.contracts.state import FlowState
from app.services.states.attempt import Attempt, CommitDue, Conflict, DueChange, Refuse, Reply
from app.services.states.committer import SYSTEM, CommandContext, Committer
from app.services.states.conflicts import ConflictResolution
from app.services.states.deadlines import Deadlines
from app.services.states.idempotency import Idempotency, RequestFingerprint
from app.services.states.recovery import Recovery
from app.services.states.state_command import ProposedChange, StateCommand
from app.services.states.turns import Turns

log = structlog.get_logger("executor")

TIMEOUT_SECONDS = 10.0
"""How long a command waits for its turn, and is attempted again after lost races."""
MAX_PAUSE_SECONDS = 0.05

Decide = Callable[[FlowState | None, datetime], Awaitable[ProposedChange | None]]
"""Decides the change of the present state (None: there is none) at a time; None: nothing changes."""


class Executor:
    """Runs commands against states."""

    def __init__(
        self,
        states: StateStore,
        commits: Committer,
        repeats: Idempotency,
        deadlines: Deadlines,
        recovery: Recovery,
        conflicts: ConflictResolution,
        clock: Clock,
    ) -> None:
        self._states = states
        self._commits = commits
        self._repeats = repeats
        self._deadlines = deadlines
        self._recovery = recovery
        self._conflicts = conflicts
        self._clock = clock
        self._turns = Turns()

    async def execute(self, command: StateCommand, decide: Decide) -> tuple[FlowState | None, bool]:
        """Execute a command. After a lost race it is decided again on the new state.

        A transition may have another rule for a state that has changed meanwhile (``conflict``).

        Returns:
            The state afterwards (None: there is none), and true if this request changed it, now or when it
            came first.

        Raises:
            FlowError: Whatever ``decide`` raises.
            RevisionConflictError: The state is not at the position that the caller expects, or has changed
                since the first attempt, and the rule of the transition does not allow it.
            InvalidRequestError: The id of the request came with another command before.
            StateBusyError: Others changed the state for too long.
        """
        if command.origin.dry_run:
            return await self._execute(command, decide, TIMEOUT_SECONDS)
        began = asyncio.get_running_loop().time()
        try:
            async with self._turns.take(command.state_id.key, TIMEOUT_SECONDS):
                waited = asyncio.get_running_loop().time() - began
                return await self._execute(command, decide, TIMEOUT_SECONDS - waited)
        except TimeoutError:
            raise StateBusyError(command.state_id.flow_id) from None

    async def _execute(
        self, command: StateCommand, decide: Decide, timeout: float
    ) -> tuple[FlowState | None, bool]:
        origin = command.origin
        request = await self._repeats.fingerprint(
            command.state_id.user_id, command.name, command.command, origin
        )
        context = CommandContext(origin, UNSET if request is None else request.stored)
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        first: FlowState | None = None
        for lost_races in itertools.count():
            attempt = await self._load_attempt(command, request, first)
            outcome = attempt.outcome_before_decision()
            merged: tuple[MergedField, ...] = ()
            if isinstance(outcome, Conflict):
                outcome, merged = await self._conflicts.resolve(attempt, outcome)
            if outcome is None:
                outcome = attempt.outcome_of(await _decision(decide, attempt), merged)
            if isinstance(outcome, Reply):
                return outcome.state, outcome.changed
            if isinstance(outcome, Refuse):
                if outcome.recorded and attempt.stored is not None:
                    self._commits.refuse(attempt.stored, command.name, outcome.error, context, attempt.now)
                try:
                    raise outcome.error
                finally:
                    del outcome  # the traceback refers to this frame: a cycle would wait for the collector
            if isinstance(outcome, CommitDue):
                change, by = outcome.due
                await self._commits.make(attempt.stored, change, CommandContext(by), attempt.now)
                first = first or attempt.met
                continue
            committed = await self._commits.make(attempt.stored, outcome.change, context, attempt.now)
            if committed is not None:
                if command.on_commit is not None:
                    command.on_commit(committed)
                return state_after(committed), True
            if loop.time() > until:
                break
            first = first or attempt.met
            longest = min(0.002 * lost_races, MAX_PAUSE_SECONDS)
            await asyncio.sleep(random.uniform(0, longest))  # noqa: S311 - spreads rivals
        raise StateBusyError(command.state_id.flow_id)

    async def _load_attempt(
        self, command: StateCommand, request: RequestFingerprint | None, first: FlowState | None
    ) -> Attempt:
        """Load what one attempt depends on. ``first`` is the state that the first attempt met."""
        stored = await self._load(command)
        now = self._now(stored)
        if stored is None:
            return Attempt(command, None, now)
        if request is not None:
            replayed = await self._repeats.answer(stored, command.origin, request, now)
            if replayed is not None:
                return Attempt(command, stored, now, replayed=replayed)
        due = await self._due(stored, now)
        if due is not None and command.origin.dry_run:
            first = stored.state  # the change is not committed, but counts as one
        return Attempt(command, stored, now, due=due, first=first)

    async def apply_due_change(self, state: FlowState) -> bool:
        """Make the change that is due on ``state``; return False if none is, or it has changed meanwhile."""
        stored = await self._states.load(state.id)
        if stored is None or stored.state.position != state.position:
            return False
        now = self._now(stored)
        due = await self._due(stored, now)
        if due is None:
            return False
        change, by = due
        return await self._commits.make(stored, change, CommandContext(by), now) is not None

    async def _due(self, stored: StoredState, now: datetime) -> DueChange | None:
        """Return the change that is due: an erasure that a restored backup undid comes before all others."""
        if stored.erased:
            return DueChange(ProposedChange.erasing(stored.state, now), SYSTEM)
        return await self._deadlines.due(stored.state, now)

    async def _load(self, command: StateCommand) -> StoredState | None:
        """Load the state. Commands that replace it recover an unreadable document first; others raise."""
        try:
            return await self._states.load(command.state_id)
        except FlowStateCorruptionError:
            if not command.replaces or command.origin.dry_run:
                raise
            with suppress(FlowNotStartedError):  # another command was first, and the state had ended
                await self._recovery.recover(command.state_id, command.origin)
            return await self._states.load(command.state_id)

    def _now(self, stored: StoredState | None) -> datetime:
        """Return the time, which never goes back within a state, whatever the clocks of the workers are."""
        now = self._clock.now()
        return now if stored is None else max(now, stored.state.updated_at)


async def _decision(decide: Decide, attempt: Attempt) -> ProposedChange | FlowError | None:
    try:
        return await decide(attempt.present, attempt.now)
    except FlowError as error:
        return error
