"""One attempt to execute a command: what was loaded gives the outcome."""

import pytest
from msgspec import structs

from app.contracts.callers import trusted_caller
from app.contracts.commands import Origin
from app.contracts.errors import FlowError, InternalError, InvalidTransitionError, RevisionConflictError
from app.contracts.ports.states import StoredState
from app.contracts.positions import ExpectedPosition
from app.services.states.attempt import Attempt, Commit, CommitDue, DueChange, Refuse, Reply
from app.services.states.committer import SYSTEM
from app.services.states.state_command import ProposedChange, StateCommand
from tests.support.samples import T0, fresh

STATE = structs.replace(fresh(), revision=3)
ENDED = structs.replace(STATE, status="cleared")
CHANGE = ProposedChange("transitioned", "go", structs.replace(STATE, revision=4))
DUE = DueChange(ProposedChange("expired", "expired", structs.replace(STATE, status="expired")), SYSTEM)
REFUSAL = InvalidTransitionError("a", "fly", [])


def command(*revisions: int, dry_run: bool = False) -> StateCommand:
    expected = tuple(ExpectedPosition(revision) for revision in revisions) or None
    origin = Origin(trusted_caller("ada"), expected=expected, dry_run=dry_run)
    return StateCommand(STATE.id, "go", None, origin)


@pytest.mark.parametrize(
    ("attempt", "outcome"),
    [
        (Attempt(command(), None, T0), None),
        (Attempt(command(), StoredState(STATE), T0), None),
        (Attempt(command(3), StoredState(STATE), T0), None),
        (Attempt(command(2, 3), StoredState(STATE), T0), None),
        (Attempt(command(9), StoredState(STATE), T0, replayed=STATE), Reply(STATE, changed=True)),
        (Attempt(command(9), StoredState(STATE), T0, due=DUE), CommitDue(DUE)),
        (Attempt(command(dry_run=True), StoredState(STATE), T0, due=DUE), None),
    ],
)
def test_replays_and_due_changes_come_before_the_decision(attempt: Attempt, outcome: object) -> None:
    assert attempt.outcome_before_decision() == outcome


@pytest.mark.parametrize(
    ("attempt", "recorded"),
    [
        (Attempt(command(2), StoredState(STATE), T0), True),
        (Attempt(command(2, dry_run=True), StoredState(STATE), T0), False),
        (Attempt(command(3), StoredState(ENDED), T0), False),
        (Attempt(command(3), None, T0), False),
        (Attempt(command(3, dry_run=True), StoredState(STATE), T0, due=DUE), False),
    ],
)
def test_another_position_than_the_expected_one_is_refused(attempt: Attempt, recorded: bool) -> None:
    outcome = attempt.outcome_before_decision()
    assert isinstance(outcome, Refuse)
    assert isinstance(outcome.error, RevisionConflictError)
    assert outcome.recorded == recorded


@pytest.mark.parametrize(
    ("attempt", "decision", "outcome"),
    [
        (Attempt(command(), StoredState(STATE), T0), CHANGE, Commit(CHANGE)),
        (Attempt(command(), None, T0), CHANGE, Commit(CHANGE)),
        (Attempt(command(dry_run=True), StoredState(STATE), T0), CHANGE, Reply(CHANGE.after, changed=True)),
        (Attempt(command(), StoredState(STATE), T0), None, Reply(STATE, changed=False)),
        (Attempt(command(), StoredState(ENDED), T0), None, Reply(None, changed=False)),
        (Attempt(command(dry_run=True), StoredState(STATE), T0, due=DUE), None, Reply(None, changed=False)),
        (Attempt(command(), StoredState(STATE), T0), REFUSAL, Refuse(REFUSAL, recorded=True)),
        (Attempt(command(dry_run=True), StoredState(STATE), T0), REFUSAL, Refuse(REFUSAL, recorded=False)),
        (Attempt(command(), StoredState(ENDED), T0), REFUSAL, Refuse(REFUSAL, recorded=False)),
        (Attempt(command(), None, T0), REFUSAL, Refuse(REFUSAL, recorded=False)),
    ],
)
def test_a_decision_leads_to_an_outcome(
    attempt: Attempt, decision: ProposedChange | FlowError | None, outcome: object
) -> None:
    assert attempt.outcome_of(decision) == outcome


def test_errors_of_the_service_itself_are_not_recorded() -> None:
    error = InternalError()
    outcome = Attempt(command(), StoredState(STATE), T0).outcome_of(error)
    assert outcome == Refuse(error, recorded=False)
