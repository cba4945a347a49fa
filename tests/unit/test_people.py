"""People of a state: roles on it, and who may name them."""

from typing import Any

import pytest
from msgspec import UNSET, structs

from app.contracts.callers import Caller
from app.contracts.commands import (
    ParticipantsCommand,
    PauseCommand,
    ResetCommand,
    SetCommand,
    StartCommand,
    TransitionCommand,
)
from app.contracts.errors import InsufficientPermissionsError, InvalidPayloadError, InvalidRequestError
from app.contracts.flow import FlowApprovals, FlowAssignment
from app.contracts.people import Participant, PersonSalt, TransitionBy, pseudonym
from app.contracts.state import FlowState, StateId
from app.flow import rules
from app.flow.people.assignment import assign_participants, require_assignable
from app.flow.people.callers import caller_at_start, caller_on, is_participant, may_see
from app.flow.people.person_salts import with_people
from app.flow.permissions import depends_on_caller, has_requirements
from tests.support.purchase import (
    ASSIGN,
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
    STRANGER,
    VOTES,
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
from tests.support.samples import T0, definition, fresh

FLOW = PURCHASE.flow
GROUPS = (Participant("finance", group="treasury"), Participant("chair", group="board"))
PLAIN = definition()


def put(state: FlowState, caller: Caller, *participants: Participant) -> FlowState | None:
    command = ParticipantsCommand(participants)
    return assign_participants(PURCHASE, state, command, T0, caller_on(FLOW, state, caller))


# Identity


def test_one_of_many_has_its_entity_as_identity_and_no_label() -> None:
    command = StartCommand(entity_id="label")
    state = rules.start(PURCHASE, StateId("purchase", "ada", "e-1"), "e1", command, T0)
    assert (state.instance_id, state.entity_id, state.entity) == ("e-1", UNSET, "e-1")
    assert state.id == StateId("purchase", "ada", "e-1")
    only = rules.start(PURCHASE, StateId("purchase", "ada"), "e1", command, T0)
    assert (only.instance_id, only.entity_id, only.entity) == (UNSET, "label", "label")


def test_the_identity_stays_for_ever() -> None:
    state = begun()
    replaced = rules.replace(
        PURCHASE, state, SetCommand(flow="purchase", step="draft", entity_id="label"), T0
    )
    ended = rules.end(state, "cleared", T0)
    assert {each.id for each in (state, replaced, ended)} == {StateId("purchase", "ada", "e-1")}
    assert (replaced.entity_id, ended.entity_id) == (UNSET, UNSET)


# The roles of a caller


@pytest.mark.parametrize(
    ("caller", "roles", "participates", "sees"),
    [
        (OWNER, {"employee"}, False, True),
        (BOB, {"approver"}, True, True),
        (Caller("bob", frozenset({"finance"})), {"approver"}, True, True),
        (DAN, set(), True, False),
        (FAY, {"finance"}, True, True),
        (GUS, {"finance", "chair"}, True, True),
        (Caller("eve", groups=frozenset({"approver", "bob"})), set(), True, False),
        (BACK_END, {"finance"}, False, True),
        (structs.replace(BACK_END, user_id="bob"), {"finance", "approver"}, False, True),
        (ROOT, set(), False, True),
        (PROGRAM, set(), False, True),
    ],
)
def test_the_roles_of_a_caller_on_a_state(
    caller: Caller, roles: set[str], participates: bool, sees: bool
) -> None:
    state = begun(approver="bob carol")
    acting = caller_on(FLOW, state, caller)
    assert (set(acting.roles), acting.participates) == (roles, participates)
    assert caller_on(FLOW, state, acting) == acting
    assert structs.replace(acting, roles=caller.roles, participates=False) == caller
    assert may_see(state, caller) is may_see(state, acting) is sees
    assert is_participant(state, caller) is (caller.user_id == "bob" or bool(caller.groups & {"treasury"}))


def test_the_owner_has_a_declared_role_only_if_it_is_assigned_on_the_state() -> None:
    assert "approver" in OWNER.roles
    assert caller_on(FLOW, begun(approver="ada"), OWNER).roles == {"employee", "approver"}
    in_treasury = structs.replace(OWNER, groups=frozenset({"treasury"}))
    assert caller_on(FLOW, begun(), in_treasury).roles == {"employee", "finance"}


def test_in_a_flow_without_participants_callers_are_as_they_were() -> None:
    state = fresh()
    for caller in (Caller("ada", frozenset({"staff"})), BACK_END, ROOT, PROGRAM):
        assert caller_on(PLAIN.flow, state, caller) is caller
    stranger = caller_on(PLAIN.flow, state, Caller("eve", frozenset({"staff"})))
    assert (set(stranger.roles), stranger.participates) == (set(), True)
    assert not may_see(state, stranger)
    assert not is_participant(state, OWNER)


def test_before_the_start_only_groups_have_roles() -> None:
    assert caller_at_start(FLOW, "ada", OWNER).roles == {"employee"}
    in_treasury = structs.replace(OWNER, groups=frozenset({"treasury"}))
    assert caller_at_start(FLOW, "ada", in_treasury).roles == {"employee", "finance"}
    assert caller_at_start(FLOW, "ada", BACK_END) is BACK_END
    assert caller_at_start(FLOW, "ada", ROOT) is ROOT
    assert caller_at_start(PLAIN.flow, "ada", OWNER) is OWNER


# The permission of a transition


@pytest.mark.parametrize(
    ("caller", "names"),
    [
        (OWNER, "revise"),
        (BOB, "approve hold refuse"),
        (FAY, ""),
        (STRANGER, ""),
        (BACK_END, "revise"),
        (ROOT, "approve hold refuse revise"),
        (PROGRAM, "approve hold refuse revise"),
    ],
)
def test_transitions_that_people_may_run(caller: Caller, names: str) -> None:
    state = in_review()
    assert offered(state, caller) == names
    for name in FLOW.steps["review"].transitions:
        if name in names.split():
            assert run(state, name, caller).revision == state.revision + 1
        else:
            with pytest.raises(InsufficientPermissionsError):
                run(state, name, caller)


def test_a_refusal_says_who_may() -> None:
    with pytest.raises(InsufficientPermissionsError, match="requires the owner of the state, or a service"):
        run(in_review(), "revise", BOB)
    with pytest.raises(InsufficientPermissionsError, match="requires one of the roles approver"):
        run(in_review(), "hold", OWNER)


def test_a_participant_undoes_what_its_role_may_run() -> None:
    state = in_payment()
    assert (state.previous, state.undo_roles) == ("review", ("approver",))
    assert rules.back(PURCHASE, state, T0, caller_on(FLOW, state, BOB)).step == "review"
    with pytest.raises(InsufficientPermissionsError):
        rules.back(PURCHASE, state, T0, caller_on(FLOW, state, FAY))
    open_flow = purchase(
        steps=steps(
            draft=[transition("go", "end", reversible=True)], end=[transition("x", "end", roles=["auditor"])]
        )
    )
    moved = run(begun(open_flow, auditor="bob"), "go", OWNER, open_flow)
    assert rules.back(open_flow, moved, T0, caller_on(open_flow.flow, moved, OWNER)).step == "draft"
    with pytest.raises(InsufficientPermissionsError, match="requires the owner of the state"):
        rules.back(open_flow, moved, T0, caller_on(open_flow.flow, moved, BOB))


def test_an_undo_of_votes_requires_the_role_of_the_voters() -> None:
    flow = purchase(
        steps=steps(
            draft=[
                transition(
                    "go",
                    "end",
                    reversible=True,
                    approvals=FlowApprovals("approver", 1),
                )
            ],
            end=[transition("x", "end", roles=["auditor"])],
        )
    )
    moved = run(begun(flow, approver="bob"), "go", BOB, flow)
    assert moved.undo_roles == ("approver",)
    unknown = structs.replace(moved, undo_roles=UNSET)
    for state in (moved, unknown):
        with pytest.raises(InsufficientPermissionsError, match="one of the roles approver"):
            rules.back(flow, state, T0, caller_on(flow.flow, state, OWNER))
        assert rules.back(flow, state, T0, caller_on(flow.flow, state, BOB)).step == "draft"


@pytest.mark.parametrize(
    ("members", "depends", "requires"),
    [
        ({"participants": None, "steps": steps(a=[transition("x", "a")])}, False, False),
        ({"steps": steps(a=[transition("x", "a")])}, True, False),
        ({"participants": None, "steps": steps(a=[transition("x", "a", not_by=["x"])])}, True, True),
        (
            {
                "participants": None,
                "steps": steps(a=[transition("x", "a", approvals=VOTES)]),
            },
            True,
            True,
        ),
    ],
)
def test_where_transitions_depend_on_people(members: dict[str, Any], depends: bool, requires: bool) -> None:
    flow = purchase(**members).flow
    assert depends_on_caller(flow, flow.steps["a"]) is depends
    assert has_requirements(flow) is requires


# Participants


def test_a_state_starts_with_the_people_of_the_command_and_the_groups_of_the_flow() -> None:
    state = begun(approver="bob bob carol")
    assert state.participants == (*users(approver="bob carol"), *GROUPS)
    assert begun().participants == GROUPS
    assert fresh().participants is UNSET
    assert (
        rules.start(PLAIN, StateId("loop", "ada"), "e", StartCommand(participants=()), T0).participants
        is UNSET
    )


MANY = users(approver=" ".join(f"u{n}" for n in range(101)))


@pytest.mark.parametrize(
    ("entries", "pointers"),
    [
        ([Participant("king", user_id="bob")], ["/participants/0/role"]),
        ([Participant(["approver"], user_id="bob")], ["/participants/0/role"]),  # type: ignore[arg-type]
        ([Participant("approver")], ["/participants/0"]),
        ([Participant("approver", user_id="bob", group="g")], ["/participants/0"]),
        ([Participant("approver", user_id="")], ["/participants/0/userId"]),
        ([Participant("approver", user_id=["bob"])], ["/participants/0/userId"]),  # type: ignore[arg-type]
        ([Participant("approver", group="a\nb")], ["/participants/0/group"]),
        (
            [Participant("approver", user_id="bob"), Participant("x"), Participant("approver", user_id="\0")],
            ["/participants/1/role", "/participants/1", "/participants/2/userId"],
        ),
        (MANY, ["/participants"]),
    ],
)
def test_faults_of_named_people(entries: list[Participant], pointers: list[str]) -> None:
    command = StartCommand(participants=tuple(entries))
    with pytest.raises(InvalidRequestError) as at_start:
        rules.start(PURCHASE, StateId("purchase", "ada"), "e", command, T0)
    with pytest.raises(InvalidRequestError) as later:
        put(begun(), ROOT, *entries)
    for refusal in (at_start, later):
        assert [fault.pointer for fault in refusal.value.faults] == pointers


def test_a_flow_without_roles_has_no_participants() -> None:
    command = StartCommand(participants=users(approver="bob"))
    with pytest.raises(InvalidRequestError, match="the flow declares no participants"):
        rules.start(PLAIN, StateId("loop", "ada"), "e", command, T0)


def test_a_hundred_people_may_be_named() -> None:
    after = put(begun(), ROOT, *MANY[:100])
    assert after is not None
    assert after.participants == MANY[:100]


def test_naming_people_replaces_all_and_is_a_revision() -> None:
    state = in_review()
    after = put(state, ROOT, *users(approver="dan", auditor="bob"), Participant("approver", group="board"))
    assert after is not None
    assert after.participants == (
        *users(approver="dan", auditor="bob"),
        Participant("approver", group="board"),
    )
    assert (after.revision, after.step, after.awaits) == (state.revision + 1, "review", ("approver",))
    none_left = put(after, ROOT)
    assert none_left is not None
    assert (none_left.participants, none_left.awaits) == (UNSET, UNSET)
    assert put(none_left, ROOT) is None


def test_naming_the_same_people_changes_nothing() -> None:
    state = begun(approver="bob carol")
    assert state.participants
    assert put(state, STRANGER, *reversed(state.participants), *users(approver="bob")) is None


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        ("approver", [OWNER]),
        ("assistant", [OWNER, CAROL]),  # the owner is an employee, and Carol an approver
        ("auditor", []),
        ("finance", []),
    ],
)
def test_roles_are_given_by_those_who_may(role: str, allowed: list[Caller]) -> None:
    state = begun(approver="carol", auditor="dan")
    assert state.participants
    for caller in (OWNER, CAROL, DAN, FAY, BACK_END, ROOT, PROGRAM):
        wanted = (*state.participants, *users(**{role: "zoe"}))
        if caller in [*allowed, BACK_END, ROOT, PROGRAM]:
            assert put(state, caller, *wanted) is not None
        else:
            with pytest.raises(InsufficientPermissionsError) as refusal:
                put(state, caller, *wanted)
            assert refusal.value.details["role"] == role


def test_each_role_that_changes_is_checked_also_when_people_leave() -> None:
    state = begun(approver="bob", auditor="dan")
    with pytest.raises(InsufficientPermissionsError, match="role auditor requires the scope flow:service"):
        put(state, OWNER, *users(approver="carol"), *GROUPS)
    with pytest.raises(InsufficientPermissionsError, match="role chair"):
        put(state, OWNER, *users(approver="carol", auditor="dan"), GROUPS[0])
    assert put(state, OWNER, *users(approver="carol", auditor="dan"), *GROUPS) is not None


def test_nobody_gets_a_permission_by_naming_themselves_at_the_start() -> None:
    user = Caller("ada")
    wanted = users(approver="ada", assistant="zoe")
    with pytest.raises(InsufficientPermissionsError, match="role assistant requires one of the roles"):
        require_assignable(FLOW, UNSET, wanted, caller_at_start(FLOW, "ada", user))
    require_assignable(FLOW, UNSET, wanted, caller_at_start(FLOW, "ada", OWNER))
    require_assignable(FLOW, UNSET, UNSET, caller_at_start(FLOW, "ada", user))


def test_a_participant_does_not_name_people_where_those_who_may_act_do() -> None:
    state = begun(approver="bob")
    with pytest.raises(InsufficientPermissionsError, match="requires the owner of the state, or a service"):
        put(state, BOB, *(state.participants or ()), *users(approver="zoe"))


# Assignments by transitions


@pytest.mark.parametrize(
    ("value", "named"),
    [("dan", "dan"), (["dan", "eve", "dan"], "dan eve"), ([], "")],
)
def test_a_transition_assigns_the_people_in_the_payload(value: Any, named: str) -> None:
    state = begun(approver="bob carol", auditor="bob")
    board = put(state, ROOT, *(state.participants or ()), Participant("approver", group="board"))
    assert board is not None
    after = run(board, "submit", OWNER, payload={"approvers": value})
    assert set(after.participants or ()) == {
        *users(approver=named, auditor="bob"),
        *GROUPS,
        Participant("approver", group="board"),
    }
    assert (after.step, after.payload) == ("review", {"approvers": value})


def test_people_may_be_in_the_payload_already() -> None:
    state = structs.replace(begun(), payload={"approvers": "dan"})
    assert users(approver="dan")[0] in (run(state, "submit", OWNER).participants or ())


@pytest.mark.parametrize(
    "payload",
    [{}, *({"approvers": value} for value in (None, 7, "", "a\nb", ["bob", 7], {"id": "bob"}, [["bob"]]))],
)
def test_values_that_name_nobody(payload: dict[str, Any]) -> None:
    with pytest.raises(InvalidPayloadError) as refusal:
        run(begun(), "submit", OWNER, payload=payload)
    assert [fault.pointer for fault in refusal.value.faults] == ["/payload/approvers"]


def test_too_many_people_are_not_assigned() -> None:
    with pytest.raises(InvalidPayloadError, match="not give roles to more than 100 users"):
        run(begun(), "submit", OWNER, payload={"approvers": [f"u{n}" for n in range(101)]})


def test_every_faulty_assignment_is_listed_by_its_member() -> None:
    ways = [FlowAssignment("approver", "payload.a/b"), FlowAssignment("auditor", "payload.c")]
    flow = purchase(steps=steps(draft=[transition("go", "end", assign=ways)], end=[]))
    with pytest.raises(InvalidPayloadError) as refusal:
        run(begun(flow), "go", OWNER, flow)
    assert [fault.pointer for fault in refusal.value.faults] == ["/payload/a~1b", "/payload/c"]
    after = run(begun(flow), "go", OWNER, flow, payload={"a/b": "bob", "c": ["dan"]})
    assert set(users(approver="bob", auditor="dan")) < set(after.participants or ())


def test_a_timeout_assigns_as_far_as_the_payload_names_people() -> None:
    state = begun(approver="bob")
    assert run(state, "submit", None).participants == state.participants
    named = structs.replace(state, payload={"approvers": ["dan"]})
    assert users(approver="dan")[0] in (run(named, "submit", None).participants or ())


# The members of a state about people, by commands


def acted() -> FlowState:
    """A state at payment with participants, awaited roles and runs."""
    state = begun(approver="bob carol")
    state = run(state, "submit", OWNER, payload={"approvers": ["bob", "carol"]})
    state = run(run(state, "approve", BOB), "approve", CAROL)
    assert state.step == "payment"
    assert state.awaits == ("chair", "finance")
    return state


def test_the_roles_that_a_state_waits_for() -> None:
    assert begun(approver="bob").awaits is UNSET  # only the owner may submit
    assert in_review().awaits == ("approver",)
    assert in_review(auditor="bob").awaits is UNSET  # nobody is an approver
    assert in_payment().awaits == ("chair", "finance")
    assert run(in_payment(), "pay", FAY).awaits is UNSET
    assert run(in_payment(), "query", FAY).awaits == ("chair", "finance")
    assert fresh().awaits is UNSET


def test_a_paused_state_waits_for_nobody() -> None:
    state = in_payment()
    paused = rules.pause(PURCHASE, state, PauseCommand(reason="audit"), T0)
    assert (paused.awaits, paused.participants) == (UNSET, state.participants)
    named = put(paused, ROOT, *users(chair="zoe"))
    assert named is not None
    assert named.awaits is UNSET
    assert rules.resume(PURCHASE, named, T0).awaits == ("chair",)
    moved = rules.replace(PURCHASE, paused, SetCommand(flow="purchase", step="review"), T0)
    assert (moved.status, moved.awaits) == ("paused", UNSET)


def test_a_reset_retains_users_and_returns_groups() -> None:
    state = put(acted(), ROOT, *users(approver="bob", auditor="dan"), Participant("approver", group="board"))
    assert state is not None
    after = rules.reset(PURCHASE, state, ResetCommand(step="review"), T0)
    assert after.participants == (*users(approver="bob", auditor="dan"), *GROUPS)
    assert (after.awaits, after.runs, after.votes, after.claims) == (("approver",), UNSET, UNSET, UNSET)
    fewer = purchase(version=2, participants={"auditor": PARTICIPANTS["auditor"]})
    assert rules.reset(fewer, state, ResetCommand(), T0).participants == users(auditor="dan")
    none = purchase(version=2, participants=None)
    assert rules.reset(none, state, ResetCommand(), T0).participants is UNSET


def test_setting_a_state_retains_people_and_runs() -> None:
    state = run(acted(), "query", FAY)
    after = rules.replace(PURCHASE, state, SetCommand(flow="purchase", step="review"), T0)
    assert (after.participants, after.runs) == (state.participants, state.runs)
    assert after.awaits == ("approver",)
    fewer = purchase(version=2, participants={"approver": PARTICIPANTS["approver"]})
    there = rules.replace(fewer, state, SetCommand(flow="purchase", step="review"), T0)
    assert there.participants == users(approver="bob carol")


def test_an_ended_state_retains_only_salts() -> None:
    people = (PersonSalt("bob", "s"),)
    ended = rules.end(structs.replace(acted(), people=people), "expired", T0)
    assert ended.participants is ended.awaits is ended.claims is ended.votes is ended.runs is UNSET
    assert (ended.people, ended.instance_id) == (people, "e-1")


def test_guards_read_the_entity_and_the_roles_on_the_state() -> None:
    guard = "state.entityId == 'e-1' && user.roles == ['approver']"
    flow = purchase(steps=steps(draft=[transition("go", "end", guard=guard, roles=["approver"])], end=[]))
    state = begun(flow, approver="bob")
    assert run(state, "go", Caller("bob", frozenset({"boss"})), flow).step == "end"
    assert offered(begun(flow, "e-2", approver="bob"), BOB, flow) == ""


# Salts


def salted(before: Any, state: FlowState, caller: Caller) -> Any:
    numbers = iter(range(10))
    return with_people(before, state, caller, lambda: f"s{next(numbers)}")


def test_everybody_whom_a_state_names_gets_a_salt_once() -> None:
    state = acted()
    people = salted(UNSET, state, ROOT)
    assert [(each.user_id, each.salt) for each in people] == [("bob", "s0"), ("carol", "s1")]
    assert salted(people, state, BOB) is people
    assert salted(people, run(state, "query", FAY), FAY) == (*people, PersonSalt("fay", "s0"))
    runs = structs.replace(state, runs=(TransitionBy("submit", "zoe"), TransitionBy("submit", "ada")))
    assert [each.user_id for each in salted(people, runs, ROOT)] == ["bob", "carol", "zoe"]


def test_nobody_loses_a_salt() -> None:
    people = (PersonSalt("zoe", "s"),)
    assert salted(people, rules.end(acted(), "cleared", T0), ROOT) is people
    assert salted(UNSET, fresh(), PROGRAM) is UNSET


@pytest.mark.parametrize(
    ("caller", "named"), [(OWNER, []), (FAY, ["fay"]), (BACK_END, []), (ROOT, []), (PROGRAM, [])]
)
def test_an_actor_by_a_role_on_the_state_gets_a_salt(caller: Caller, named: list[str]) -> None:
    people = salted(UNSET, begun(), caller)
    assert [each.user_id for each in people or ()] == named


def test_a_pseudonym_gets_no_salt() -> None:
    state = begun(approver="bob")
    erased = structs.replace(state, participants=(Participant("approver", user_id=pseudonym("s", "bob")),))
    assert salted(UNSET, erased, ROOT) is UNSET


def test_a_plain_transition_has_nothing_about_people() -> None:
    after = rules.transition(PLAIN, fresh(), "go", TransitionCommand(), T0, Caller("ada"))
    members = ("participants", "awaits", "claims", "votes", "runs", "people")
    assert all(getattr(after, name) is UNSET for name in members)
    assert ASSIGN[0].source == "payload.approvers"
