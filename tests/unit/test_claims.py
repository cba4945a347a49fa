"""Claims: leases on the tasks of a role."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET, structs

from app.contracts.callers import Caller
from app.contracts.commands import ClaimCommand, ParticipantsCommand, PauseCommand, ResetCommand, SetCommand
from app.contracts.errors import (
    ClaimedError,
    InsufficientPermissionsError,
    InvalidRequestError,
    InvalidTransitionError,
    StatePausedError,
)
from app.contracts.people import Claim, Participant
from app.contracts.state import FlowState
from app.flow import rules
from app.flow.people import claims
from app.flow.people.assignment import assign_participants
from app.flow.people.callers import caller_on
from tests.support.purchase import (
    BACK_END,
    BOB,
    CAROL,
    DAN,
    FAY,
    GUS,
    OWNER,
    PARTICIPANTS,
    PROGRAM,
    PURCHASE,
    ROOT,
    begun,
    in_payment,
    in_review,
    offered,
    purchase,
    run,
)
from tests.support.samples import T0

HAL = Caller("hal", groups=frozenset({"treasury"}))
QUARTER = timedelta(minutes=15)
FLOW = PURCHASE.flow
GROUPS = (Participant("finance", group="treasury"), Participant("chair", group="board"))


def at(seconds: float) -> Any:
    return T0 + timedelta(seconds=seconds)


def claim(
    state: FlowState, caller: Caller, role: str | None = "finance", seconds: float = 0
) -> FlowState | None:
    acting = caller_on(FLOW, state, caller)
    return claims.claim(PURCHASE, state, ClaimCommand(role=role), at(seconds), acting)


def release(
    state: FlowState, caller: Caller, role: str | None = None, seconds: float = 0
) -> FlowState | None:
    acting = caller_on(FLOW, state, caller)
    return claims.release(PURCHASE, state, ClaimCommand(role=role), at(seconds), acting)


def claimed(caller: Caller = FAY, role: str = "finance", seconds: float = 0, **roles: str) -> FlowState:
    after = claim(in_payment(**roles), caller, role, seconds)
    assert after is not None
    return after


def test_a_claim_lasts_as_the_role_says() -> None:
    before = in_payment()
    after = claim(before, FAY)
    assert after is not None
    assert after.claims == (Claim("finance", "fay", T0 + QUARTER),)
    assert (after.revision, after.step, after.awaits) == (before.revision + 1, before.step, before.awaits)
    assert after.updated_at == T0


def test_claiming_again_renews() -> None:
    state = claimed()
    assert claim(state, FAY) is None  # at the same time
    later = claim(state, FAY, seconds=60)
    assert later is not None
    assert later.claims == (Claim("finance", "fay", at(60) + QUARTER),)


def test_one_person_has_a_claim_until_it_ends() -> None:
    state = claimed()
    for seconds in (0, 15 * 60 - 0.001):
        with pytest.raises(ClaimedError) as refusal:
            claim(state, HAL, seconds=seconds)
        assert refusal.value.details == {
            "role": "finance",
            "userId": "fay",
            "until": "2126-01-02T03:19:05.678Z",
        }
    after = claim(state, HAL, seconds=15 * 60)
    assert after is not None
    assert [each.user_id for each in after.claims or ()] == ["hal"]


def test_without_a_role_the_only_one_is_claimed() -> None:
    after = claim(in_payment(), FAY, None)
    assert after is not None
    assert [each.role for each in after.claims or ()] == ["finance"]
    with pytest.raises(InvalidRequestError, match="/role: must name one of chair, finance"):
        claim(in_payment(), GUS, None)
    both = claim(claimed(GUS), GUS, "chair")
    assert both is not None
    assert {(each.role, each.until - T0) for each in both.claims or ()} == {
        ("finance", QUARTER),
        ("chair", timedelta(minutes=5)),
    }
    assert release(both, GUS, "chair") == structs.replace(claimed(GUS), revision=both.revision + 1)
    with pytest.raises(InvalidRequestError, match="/role: must name one of finance, chair"):
        release(both, GUS)


def test_an_ended_claim_leaves_with_the_next_change() -> None:
    after = claim(claimed(GUS, "chair"), FAY, seconds=600)
    assert after is not None
    assert [each.role for each in after.claims or ()] == ["finance"]


@pytest.mark.parametrize(
    ("caller", "state", "role", "error", "text"),
    [
        (FAY, in_payment(), "approver", InvalidRequestError, "/role: must be one of finance, chair"),
        (FAY, in_payment(), "king", InvalidRequestError, "/role: must be one of finance, chair"),
        (FAY, in_review(), "finance", InvalidTransitionError, "no tasks of the role finance can be claimed"),
        (FAY, in_review(), None, InvalidTransitionError, "no tasks of any role can be claimed at this step"),
        (OWNER, in_payment(), "finance", InsufficientPermissionsError, "one of the roles finance"),
        (BOB, in_payment(), None, InsufficientPermissionsError, "one of the roles chair, finance"),
        (FAY, in_payment(), "chair", InsufficientPermissionsError, "one of the roles chair"),
    ],
)
def test_refused_claims(
    caller: Caller, state: FlowState, role: str | None, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        claim(state, caller, role)


def test_where_no_role_can_be_claimed() -> None:
    fixed = {name: structs.replace(each, claim=None) for name, each in PARTICIPANTS.items()}
    flow = purchase(participants=fixed)
    for change in (claims.claim, claims.release):
        with pytest.raises(InvalidRequestError, match="/role: must be absent: no role can be claimed"):
            change(flow, in_payment(), ClaimCommand("finance"), T0, FAY)


def test_a_paused_state_is_not_claimed_and_releases() -> None:
    paused = rules.pause(PURCHASE, claimed(), PauseCommand(reason="audit"), T0)
    assert paused.claims is not UNSET
    with pytest.raises(StatePausedError):
        claim(paused, HAL)
    after = release(paused, FAY)
    assert after is not None
    assert (after.claims, after.status) == (UNSET, "paused")


TAKERS = [(DAN, True), (BACK_END, True), (ROOT, True), (PROGRAM, True), (HAL, False)]


@pytest.mark.parametrize(("caller", "may"), TAKERS)
def test_taking_over(caller: Caller, may: bool) -> None:
    state = claimed(auditor="dan", finance="dan")
    if not may:
        with pytest.raises(ClaimedError):
            claim(state, caller)
        with pytest.raises(InsufficientPermissionsError, match="of fay; it is released by that user"):
            release(state, caller)
        return
    after = claim(state, caller, seconds=60)
    assert after is not None
    assert after.claims == (Claim("finance", caller.user_id, at(60) + QUARTER),)
    released = release(state, caller)
    assert released is not None
    assert released.claims is UNSET


def test_a_role_of_a_token_takes_over_nothing() -> None:
    with_token = structs.replace(HAL, roles=frozenset({"auditor", "chair"}))
    with pytest.raises(ClaimedError):
        claim(claimed(), with_token)
    owner = Caller("ada", frozenset({"auditor"}), groups=frozenset({"treasury"}))
    with pytest.raises(ClaimedError):
        claim(claimed(), owner)


def test_releasing() -> None:
    state = claimed()
    after = release(state, FAY, seconds=1)
    assert after is not None
    assert (after.claims, after.revision, after.updated_at) == (UNSET, state.revision + 1, at(1))
    assert release(after, FAY) is None
    assert release(state, FAY, "chair") is None
    assert release(state, FAY, seconds=15 * 60) is None
    with pytest.raises(InvalidRequestError, match="/role: must be one of finance, chair"):
        release(state, FAY, "approver")


@pytest.mark.parametrize(
    ("caller", "name", "error"),
    [
        (FAY, "pay", None),
        (HAL, "pay", ClaimedError),
        (HAL, "query", ClaimedError),
        (GUS, "pay", ClaimedError),
        (GUS, "query", None),  # as the chair, whose tasks nobody has claimed
        (GUS, "veto", None),
        (BACK_END, "pay", ClaimedError),  # it may take over
        (ROOT, "pay", None),
        (PROGRAM, "pay", None),
    ],
)
def test_a_claim_stops_others_by_the_same_role(
    caller: Caller, name: str, error: type[Exception] | None
) -> None:
    state = claimed()
    assert (name in offered(state, caller).split()) is (error is None)
    assert name in offered(state, caller, seconds=15 * 60).split()
    assert run(state, name, caller, seconds=15 * 60).step != "review"
    if error is None:
        assert run(state, name, caller).claims is UNSET
        return
    with pytest.raises(error):
        run(state, name, caller)


def test_two_claims_stop_those_with_both_roles() -> None:
    both = claim(claimed(HAL), Caller("ivy", groups=frozenset({"board"})), "chair")
    assert both is not None
    with pytest.raises(ClaimedError, match="of finance are claimed by hal"):
        run(both, "query", GUS)
    assert offered(both, GUS) == ""


def test_a_claim_does_not_stop_votes() -> None:
    claimable = {**PARTICIPANTS, "approver": structs.replace(PARTICIPANTS["approver"], claim=QUARTER)}
    flow = purchase(participants=claimable)
    state = run(begun(flow, approver="bob carol"), "quick", OWNER, flow)
    acting = caller_on(flow.flow, state, BOB)
    after = claims.claim(flow, state, ClaimCommand("approver"), T0, acting)
    assert after is not None
    assert offered(after, CAROL, flow) == "approve hold"
    assert run(after, "approve", CAROL, flow).claims == after.claims
    with pytest.raises(ClaimedError):
        run(after, "refuse", CAROL, flow)


@pytest.mark.parametrize("leave", ["move", "same step", "undo", "reset", "set", "end", "timeout"])
def test_claims_end_where_a_step_is_entered(leave: str) -> None:
    state = claimed()
    after = {
        "move": lambda: run(state, "pay", FAY),
        "same step": lambda: run(state, "query", FAY),
        "undo": lambda: rules.back(PURCHASE, state, T0, ROOT),
        "reset": lambda: rules.reset(PURCHASE, state, ResetCommand(step="payment"), T0),
        "set": lambda: rules.replace(PURCHASE, state, SetCommand(flow="purchase", step="payment"), T0),
        "end": lambda: rules.end(state, "cleared", T0),
        "timeout": lambda: run(state, "query", None),
    }[leave]()
    assert after.claims is UNSET


def test_a_user_who_loses_the_role_loses_the_claim() -> None:
    state = claimed(BOB, finance="bob dan")
    others = (each for each in state.participants or () if each != Participant("finance", user_id="bob"))
    after = assign_participants(PURCHASE, state, ParticipantsCommand(tuple(others)), T0, ROOT)
    assert after is not None
    assert after.claims is UNSET
    state = claimed(BOB, finance="bob dan")
    others = (each for each in state.participants or () if each != Participant("finance", user_id="dan"))
    after = assign_participants(PURCHASE, state, ParticipantsCommand(tuple(others)), T0, ROOT)
    assert after is not None
    assert after.claims == state.claims
