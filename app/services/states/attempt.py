"""One attempt to execute a command: a pure function from what was loaded to an outcome."""

from datetime import datetime
from typing import NamedTuple

from msgspec import Struct, structs

from app.contracts.commands import Origin, TransitionCommand
from app.contracts.errors import FlowError, RevisionConflictError
from app.contracts.ports.states import StoredState
from app.contracts.positions import ExpectedPosition
from app.contracts.record import MergedField
from app.contracts.state import TERMINAL_STATUSES, FlowState
from app.services.states.state_command import ProposedChange, StateCommand


class DueChange(NamedTuple):
    """A change that time alone makes, and the origin by which it is recorded."""

    change: ProposedChange
    origin: Origin


class Reply(Struct, frozen=True):
    """Answer with the state (None: there is none); nothing is to be committed.

    ``changed``: this request made the state what it is: now, as a dry run, or when it came first.
    """

    state: FlowState | None
    changed: bool


class CommitDue(Struct, frozen=True):
    """Commit what is due by time, then attempt the command again."""

    due: DueChange


class Commit(Struct, frozen=True):
    """Commit the change of the command; if another worker was first, attempt the command again."""

    change: ProposedChange


class Refuse(Struct, frozen=True):
    """Raise the error. ``recorded``: write a record of the refusal too."""

    error: FlowError
    recorded: bool


class Conflict(Struct, frozen=True):
    """The state has changed since the caller read it, and the transition may say what then happens.

    ``present`` is the state, and ``command`` that of the transition. ``error`` is that of a state at none of
    the positions that the caller expects. None: it is at one of them, or the caller expects none, but it has
    changed since the first attempt.
    """

    present: FlowState
    command: TransitionCommand
    error: RevisionConflictError | None


Outcome = Reply | CommitDue | Commit | Refuse


class Attempt(Struct, frozen=True):
    """One attempt to execute a command.

    Attributes:
        command: The command.
        stored: The state as it was loaded, None if there is none.
        now: The time of the attempt, never before the last change of the state.
        replayed: The state to which the same request led when it came first, None if it is new.
        due: The change that is due by time, None if none is.
        first: The state that the first attempt met, None if this is the first one, or there was none.
    """

    command: StateCommand
    stored: StoredState | None
    now: datetime
    replayed: FlowState | None = None
    due: DueChange | None = None
    first: FlowState | None = None

    @property
    def present(self) -> FlowState | None:
        """The state that the command meets, None if there is none, or it has ended."""
        state = None if self.stored is None else self.stored.state
        if self.due is not None:  # in a dry run; otherwise the command is decided after its commit
            state = self.due.change.after
        return None if state is None or state.status in TERMINAL_STATUSES else state

    @property
    def met(self) -> FlowState | None:
        """The state as it was stored."""
        return None if self.stored is None else self.stored.state

    def outcome_before_decision(self) -> Outcome | Conflict | None:
        """Return the outcome that needs no decision, None if the command is to be decided."""
        if self.replayed is not None:
            return Reply(self.replayed, changed=True)
        if self.due is not None and not self.command.origin.dry_run:
            return CommitDue(self.due)
        present = self.present
        error = position_conflict(present, self.command.origin.expected)
        first = self.first
        if error is None and (first is None or (present is not None and first.position == present.position)):
            return None
        command = self.command.command
        if present is not None and isinstance(command, TransitionCommand):
            return Conflict(present, command, error)
        return None if error is None else self.refusal(error)

    def outcome_of(
        self, decision: ProposedChange | FlowError | None, merged: tuple[MergedField, ...] = ()
    ) -> Outcome:
        """Return the outcome of the decision: a change, an error, or None for no change."""
        if isinstance(decision, FlowError):
            return self.refusal(decision)
        if decision is None:
            return Reply(self.present, changed=False)
        if self.command.origin.dry_run:
            return Reply(decision.after, changed=True)
        return Commit(structs.replace(decision, merged=merged) if merged else decision)

    def refusal(self, error: FlowError) -> Refuse:
        """Errors of the service itself are not recorded, nor commands for a state that is not there."""
        is_of_client = error.status < 500
        dry_run = self.command.origin.dry_run
        return Refuse(error, recorded=self.present is not None and is_of_client and not dry_run)


def position_conflict(
    state: FlowState | None, expected: ExpectedPosition | tuple[ExpectedPosition, ...] | None
) -> RevisionConflictError | None:
    """Return the error for a state that is at none of the expected positions, None if it is."""
    if expected is None:
        return None
    if isinstance(expected, ExpectedPosition):
        expected = (expected,)
    if state is None:
        return RevisionConflictError("There is no state to be at the expected revision", None)
    if any(one.is_of(state.position) for one in expected):
        return None
    return RevisionConflictError(f"{_actual_position(state, expected)}; read it and decide again", state)


def _actual_position(state: FlowState, expected: tuple[ExpectedPosition, ...]) -> str:
    if any(one.revision == state.revision for one in expected):
        return f"The state was started anew: it is at revision {state.revision} of epoch {state.epoch}"
    at = f"The state is at revision {state.revision}"
    revisions = [str(one.revision) for one in expected if one.revision is not None]
    return f"{at}, not {' or '.join(revisions)}" if revisions else at
