"""Transitions that need several people, and those that another person must run."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, structs

from app.contracts.callers import Caller
from app.contracts.commands import ParticipantsCommand, PauseCommand, ResetCommand, SetCommand
from app.contracts.errors import (
    GuardRefusedError,
    InsufficientPermissionsError,
    InvalidPayloadError,
    SeparationOfDutiesError,
    StatePausedError,
)
from app.contracts.flow import FlowApprovals, FlowTimeout
from app.contracts.people import TransitionBy
from app.contracts.state import FlowState
from app.flow import rules
from app.flow.people import duties
from app.flow.people.approvals import withdraw
from app.flow.people.assignment import assign_participants
from app.flow.people.callers import caller_on
from tests.support.long_form import examples
from tests.support.purchase import (
    ASSIGN,
    BACK_END,
    BOB,
    CAROL,
    DAN,
    FAY,
    OWNER,
    PROGRAM,
    PURCHASE,
    ROOT,
    begun,
    in_payment,
    in_review,
    offered,
    purchase,
    run,
    steps,
    transition,
    users,
)
from tests.support.samples import T0


def by(*runs: str) -> tuple[TransitionBy, ...]:
    """``by("approve bob")``."""
    return tuple(TransitionBy(*each.split()) for each in runs)


# Votes


def test_the_last_vote_that_is_needed_moves_the_state() -> None:
    before = in_review()
    first = run(before, "approve", BOB, payload={"bob": 1}, seconds=1)
    assert (first.step, first.revision, first.votes) == ("review", before.revision + 1, by("approve bob"))
    assert (first.payload, first.updated_at) == ({"bob": 1}, T0 + timedelta(seconds=1))
    assert (first.awaits, first.participants) == (before.awaits, before.participants)
    last = run(first, "approve", CAROL, payload={"carol": 1})
    assert (last.step, last.votes, last.previous) == ("payment", UNSET, "review")
    assert last.payload == {"bob": 1, "carol": 1}
    assert rules.run_kind(before, first) == "voted"
    assert rules.run_kind(first, last) == "transitioned"


def test_a_vote_leaves_the_outcome_and_the_undo_of_the_step() -> None:
    state = structs.replace(in_review(), previous="draft", message="check", ok=False, timeout_at=T0)
    voted = run(state, "approve", BOB)
    assert (voted.previous, voted.message, voted.ok, voted.timeout_at) == ("draft", "check", False, T0)
    assert run(state, "approve", BOB, message="fine").message == "fine"


def test_the_same_vote_again_changes_nothing() -> None:
    voted = run(in_review(), "approve", BOB)
    again = run(voted, "approve", BOB, payload={"more": 1})
    assert again is voted
    assert rules.run_kind(voted, again) is None


def test_a_vote_for_another_transition_moves_the_vote() -> None:
    voted = run(in_review(), "approve", BOB)
    assert offered(voted, BOB) == "hold refuse"
    assert offered(voted, CAROL) == "approve hold refuse"
    moved = run(voted, "hold", BOB)
    assert moved.votes == by("hold bob")
    assert run(moved, "approve", CAROL).votes == by("hold bob", "approve carol")
    assert run(moved, "hold", CAROL).step == "draft"


def test_a_transition_without_votes_moves_at_once() -> None:
    refused = run(run(in_review(), "approve", BOB), "refuse", BOB)
    assert (refused.step, refused.votes) == ("refused", UNSET)
    revised = run(run(in_review(), "approve", BOB), "revise", OWNER)
    assert (revised.step, revised.votes) == ("draft", UNSET)


@pytest.mark.parametrize("caller", [OWNER, FAY, BACK_END, Caller("eve", frozenset({"approver"}))])
def test_a_vote_requires_the_role(caller: Caller) -> None:
    with pytest.raises(InsufficientPermissionsError, match="requires one of the roles approver"):
        run(in_review(), "approve", caller)


def test_a_transition_with_other_roles_requires_that_of_the_voters_too() -> None:
    votes = FlowApprovals("approver", 1)
    flow = purchase(
        steps=steps(
            draft=[transition("go", "end", roles=["auditor", "approver"], approvals=votes)],
            end=[],
        )
    )
    state = begun(flow, approver="bob", auditor="dan carol")
    with pytest.raises(InsufficientPermissionsError, match="requires one of the roles approver"):
        run(state, "go", DAN, flow)
    assert (offered(state, DAN, flow), offered(state, BOB, flow)) == ("", "go")
    assert run(state, "go", BOB, flow).step == "end"


def test_administrators_and_services_are_one_person_each() -> None:
    voted = run(in_review(), "approve", ROOT)
    assert run(voted, "approve", ROOT) is voted
    assert run(voted, "approve", BOB).step == "payment"
    service = structs.replace(BACK_END, roles=frozenset({"approver"}))
    assert run(voted, "approve", service).step == "payment"
    assert run(run(in_review(), "approve", PROGRAM), "approve", BOB).step == "payment"


def test_a_refused_vote_changes_nothing() -> None:
    flow = purchase(
        steps=steps(
            draft=[
                transition(
                    "go",
                    "end",
                    approvals=FlowApprovals("approver", 2),
                    guard="payload.sure",
                    payload_schema={"required": ["sure"]},
                )
            ],
            end=[],
        )
    )
    state = begun(flow, approver="bob carol")
    with pytest.raises(InvalidPayloadError):
        run(state, "go", BOB, flow)
    with pytest.raises(GuardRefusedError):
        run(state, "go", BOB, flow, payload={"sure": False})
    voted = run(state, "go", BOB, flow, payload={"sure": True})
    assert run(voted, "go", BOB, flow) is voted


def test_a_timeout_needs_no_votes() -> None:
    state = in_review()
    moved = run(state, "approve", None)
    assert (moved.step, moved.runs) == ("payment", UNSET)
    review = structs.replace(
        PURCHASE.flow.steps["review"], timeout=FlowTimeout(timedelta(seconds=1), "approve")
    )
    flow = purchase(steps={**PURCHASE.flow.steps, "review": review})
    waiting = run(begun(flow, approver="bob"), "quick", OWNER, flow)
    late = rules.timeout(flow, waiting, T0 + timedelta(seconds=1))
    assert late is not None
    assert (late[0], late[1].step) == ("approve", "payment")


def test_withdrawing_a_vote() -> None:
    state = run(in_review(), "approve", BOB)
    later = T0 + timedelta(seconds=5)
    without = withdraw(state, later, BOB)
    assert without is not None
    assert (without.votes, without.revision, without.updated_at) == (UNSET, state.revision + 1, later)
    assert withdraw(without, later, BOB) is None
    assert withdraw(state, later, CAROL) is None
    assert run(without, "approve", CAROL).step == "review"
    votes = FlowApprovals("approver", 3)
    three = purchase(steps=steps(draft=[transition("go", "end", approvals=votes)], end=[]))
    both = run(run(begun(three, approver="bob carol"), "go", BOB, three), "go", CAROL, three)
    left = withdraw(both, later, BOB)
    assert left is not None
    assert left.votes == by("go carol")


def test_a_paused_state_takes_no_votes() -> None:
    voted = run(in_review(), "approve", BOB)
    paused = rules.pause(PURCHASE, voted, PauseCommand(reason="audit"), T0)
    assert paused.votes == voted.votes
    with pytest.raises(StatePausedError):
        withdraw(paused, T0, BOB)
    with pytest.raises(StatePausedError):
        run(paused, "approve", CAROL)
    assert run(rules.resume(PURCHASE, paused, T0), "approve", CAROL).step == "payment"


def test_the_last_vote_assigns_roles() -> None:
    flow = purchase(
        steps=steps(
            draft=[transition("go", "end", approvals=FlowApprovals("approver", 2), assign=ASSIGN)], end=[]
        )
    )
    state = begun(flow, approver="bob carol")
    voted = run(state, "go", BOB, flow)
    assert voted.participants == state.participants
    moved = run(voted, "go", CAROL, flow, payload={"approvers": ["dan"]})
    assert set(users(approver="dan")) < set(moved.participants or ())
    assert not set(users(approver="bob carol")) & set(moved.participants or ())


def test_a_user_who_loses_the_role_loses_the_vote() -> None:
    state = run(in_review(approver="bob carol dan", auditor="bob carol"), "approve", BOB)
    for gone, votes in (("approver", UNSET), ("auditor", state.votes)):
        rest = tuple(e for e in state.participants or () if (e.role, e.user_id) != (gone, "bob"))
        after = assign_participants(PURCHASE, state, ParticipantsCommand(rest), T0, ROOT)
        assert after is not None
        assert after.votes == votes


# Separation of duties


def submitted(caller: Caller = OWNER, *, payload: Any = None) -> FlowState:
    given = {"approvers": ["ada", "bob", "carol"]} if payload is None else payload
    return run(begun(), "submit", caller, payload=given)


def test_runs_that_a_rule_names_are_recorded() -> None:
    state = submitted()
    assert state.runs == by("submit ada")
    assert run(begun(), "quick", OWNER).runs is UNSET
    state = run(run(state, "approve", BOB), "approve", CAROL)
    assert state.runs == by("submit ada", "approve bob", "approve carol")
    assert run(state, "query", FAY).runs == state.runs


APPROVING_BACK_END = structs.replace(BACK_END, roles=frozenset({"approver"}))


@pytest.mark.parametrize("caller", [OWNER, ROOT, PROGRAM, APPROVING_BACK_END])
def test_whoever_ran_one_may_not_run_the_other(caller: Caller) -> None:
    state = submitted(caller)
    assert "approve" not in offered(state, caller).split()
    with pytest.raises(SeparationOfDutiesError) as refusal:
        run(state, "approve", caller)
    assert refusal.value.details == {"transition": "approve", "ran": "submit"}
    other = structs.replace(caller, user_id="someone", scopes=frozenset({"flow:admin"}), trusted=False)
    assert run(state, "approve", other).votes == by("approve someone")


def test_whoever_voted_may_not_run_the_other() -> None:
    state = in_payment(finance="bob carol dan")
    for person, names in ((BOB, "query"), (CAROL, "query"), (DAN, "pay query")):
        assert offered(state, person) == names
    for barred in (BOB, CAROL):
        with pytest.raises(SeparationOfDutiesError):
            run(state, "pay", barred)
    assert run(state, "pay", DAN).step == "paid"


def test_a_present_vote_counts_and_a_withdrawn_one_does_not() -> None:
    ways = [
        transition("go", "end", approvals=FlowApprovals("approver", 2)),
        transition("check", "end", roles=["approver"], not_by=["go"]),
    ]
    flow = purchase(steps=steps(draft=ways, end=[]))
    voted = run(begun(flow, approver="bob carol"), "go", BOB, flow)
    assert voted.runs is UNSET
    with pytest.raises(SeparationOfDutiesError):
        run(voted, "check", BOB, flow)
    assert offered(voted, BOB, flow) == ""
    assert offered(voted, CAROL, flow) == "go check"
    without = withdraw(voted, T0, BOB)
    assert without is not None
    assert run(without, "check", BOB, flow).step == "end"


@pytest.mark.parametrize("leave", ["refuse", "undo", "set", "timeout"])
def test_a_vote_that_was_not_withdrawn_counts_also_after_the_step(leave: str) -> None:
    voted = run(structs.replace(in_review(), previous="draft"), "approve", BOB)
    after = {
        "refuse": lambda: run(voted, "refuse", CAROL),
        "undo": lambda: rules.back(PURCHASE, voted, T0, ROOT),
        "set": lambda: rules.replace(PURCHASE, voted, SetCommand(flow="purchase", step="payment"), T0),
        "timeout": lambda: run(voted, "refuse", None),
    }[leave]()
    assert (after.votes, after.runs) == (UNSET, by("approve bob"))


def test_runs_last_until_a_reset() -> None:
    state = in_payment()
    undone = rules.back(PURCHASE, state, T0, ROOT)
    assert (undone.step, undone.runs, undone.votes) == ("review", state.runs, UNSET)
    assert rules.reset(PURCHASE, state, ResetCommand(), T0).runs is UNSET
    paused = rules.pause(PURCHASE, state, PauseCommand(reason="x"), T0)
    assert rules.resume(PURCHASE, paused, T0).runs == state.runs


def test_a_timeout_is_no_run_and_is_not_barred() -> None:
    assert run(begun(), "submit", None).runs is UNSET
    assert run(in_payment(), "pay", None).step == "paid"


def test_a_rule_needs_no_participants() -> None:
    ways = [transition("x", "a"), transition("y", "a", not_by=["x"]), transition("z", "a", not_by=["z"])]
    flow = purchase(participants=None, instances="one", steps=steps(a=ways), initial_step="a")
    state = run(begun(flow, None), "x", OWNER, flow)
    assert offered(state, OWNER, flow) == "x z"
    assert run(state, "x", OWNER, flow).runs == by("x ada")
    state = run(state, "z", OWNER, flow)
    assert offered(state, OWNER, flow) == "x"
    with pytest.raises(SeparationOfDutiesError):
        run(state, "y", OWNER, flow)


def test_the_names_that_rules_refer_to_are_found_once_for_a_version() -> None:
    assert duties.excluding(PURCHASE.flow) == {"submit", "approve"}
    assert duties.excluding(PURCHASE.flow) is duties.excluding(PURCHASE.flow)
    for number in range(duties.MAX_KNOWN_FLOWS + 1):
        flow = purchase(steps=steps(a=[transition("x", "a", not_by=[f"t{number}"])])).flow
        assert duties.excluding(flow) == {f"t{number}"}
    assert duties.excluding(PURCHASE.flow) == {"submit", "approve"}


PEOPLE = [Caller(f"u{n}") for n in range(6)]


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(["go", "stop", "withdraw"]), st.integers(0, 5)), max_size=40),
)
@examples(200)
def test_a_state_never_moves_before_the_nth_different_person(count: int, acts: list[tuple[str, int]]) -> None:
    votes = FlowApprovals("approver", count)
    ways = [transition("go", "went", approvals=votes), transition("stop", "stopped", approvals=votes)]
    flow = purchase(steps=steps(draft=ways, went=[], stopped=[]))
    state = begun(flow, approver=" ".join(each.user_id for each in PEOPLE))
    standing: dict[str, str] = {}
    for name, number in acts:
        person = PEOPLE[number]
        before = state
        if name == "withdraw":
            state = withdraw(state, T0, caller_on(flow.flow, state, person)) or state
            changed = standing.pop(person.user_id, None) is not None
        else:
            state = run(state, name, person, flow)
            changed = standing.get(person.user_id) != name
            standing[person.user_id] = name
        assert (state is not before) is changed
        if list(standing.values()).count(name) >= count:
            assert (state.step, state.votes) == ({"go": "went", "stop": "stopped"}[name], UNSET)
            return
        assert state.step == "draft"
        assert {each.user_id: each.transition for each in state.votes or ()} == standing
