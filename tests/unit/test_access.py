"""Visibility of flows, and permission to run their transitions."""

from typing import Any

import msgspec
import pytest
from msgspec import UNSET, structs

from app.contracts.callers import ADMIN, SERVICE, Caller, trusted_caller
from app.contracts.commands import Origin, StartCommand, TransitionCommand
from app.contracts.definition import FlowDefinition
from app.contracts.errors import (
    FlowError,
    GuardRefusedError,
    InsufficientPermissionsError,
    InvalidPayloadError,
    InvalidTransitionError,
)
from app.contracts.flow import Flow
from app.contracts.ports.states import StateFilter
from app.contracts.state import FlowState, StateId
from app.flow import rules
from app.flow.permissions import depends_on_caller
from app.flow.validation import parse_flow
from tests.support.rig import Rig
from tests.support.samples import T0, expense_flow, flow_dict

EMPLOYEE = Caller("eve", frozenset({"employee"}))
APPROVER = Caller("ada", frozenset({"employee", "approver"}))
ADMINISTRATOR = Caller("root", scopes=frozenset({ADMIN}))
BACK_END = Caller("shop", scopes=frozenset({SERVICE}))
APPROVING_BACK_END = Caller("tasks", APPROVER.roles, frozenset({SERVICE}))


def definition(**changes: Any) -> FlowDefinition:
    parse_flow(expense_flow(**changes))
    flow = msgspec.convert(expense_flow(**changes), Flow)
    return FlowDefinition(flow=flow, version=1, published_at=T0, published_by="tests", source="python")


def at(step: str, user: str = "eve") -> FlowState:
    return rules.start(
        definition(), StateId("expense", user), "e1", StartCommand(step=step, payload={"amount": 80}), T0
    )


def run(state: FlowState, name: str, caller: Caller | None, payload: Any = UNSET) -> FlowState:
    return rules.transition(definition(), state, name, TransitionCommand(payload=payload), T0, caller)


def names(state: FlowState, caller: Caller) -> list[str]:
    return [t.transition for t in rules.with_transitions(definition(), state, caller, T0).transitions]


def test_roles_of_a_transition() -> None:
    with pytest.raises(InsufficientPermissionsError) as refused:
        run(at("review"), "approve", EMPLOYEE)
    assert refused.value.details == {"transition": "approve", "roles": ["approver"]}
    assert run(at("review"), "approve", APPROVER).step == "approved"
    assert run(at("review"), "approve", ADMINISTRATOR).step == "approved", "administrators need no role"
    with pytest.raises(InsufficientPermissionsError):
        run(at("review"), "approve", BACK_END)


def test_a_transition_of_no_role_is_for_the_timer_alone() -> None:
    with pytest.raises(InsufficientPermissionsError, match="requires the timer"):
        run(at("review"), "remind", APPROVER)
    assert run(at("review"), "remind", None).step == "review"


def test_a_transition_that_there_is_not_names_those_that_the_caller_may_run() -> None:
    state = at("review", user="bob")
    for caller in (EMPLOYEE, APPROVER, ADMINISTRATOR):
        with pytest.raises(InvalidTransitionError) as refused:
            run(state, "fly", caller)
        assert refused.value.details["allowed"] == names(state, caller)
        with pytest.raises(InvalidTransitionError) as refused:
            rules.back(definition(), state, T0, caller)
        assert refused.value.details["allowed"] == names(state, caller)
    assert names(state, EMPLOYEE) != names(state, APPROVER)


def test_a_guard_reads_the_caller_and_the_user_of_the_state() -> None:
    own = at("review", user="ada")
    with pytest.raises(GuardRefusedError) as refused:
        run(own, "approve", APPROVER)
    assert refused.value.details["values"] == {"user.id": "ada", "state.userId": "ada"}
    with pytest.raises(GuardRefusedError):
        run(at("review", user="root"), "approve", ADMINISTRATOR)


def test_a_payload_schema_names_every_fault() -> None:
    with pytest.raises(InvalidPayloadError) as refused:
        run(at("draft"), "submit", EMPLOYEE, {"amount": -1, "reason": 7})
    assert [e["pointer"] for e in refused.value.details["errors"]] == ["/payload/amount", "/payload/reason"]
    with pytest.raises(InvalidPayloadError, match="required"):
        run(at("draft"), "submit", EMPLOYEE)
    with pytest.raises(InvalidPayloadError, match="64 bits"):
        run(at("draft"), "submit", EMPLOYEE, {"amount": 2**70, "reason": "x"})
    assert run(at("draft"), "submit", EMPLOYEE, {"amount": 1, "reason": "lunch"}).step == "review"


def test_the_role_is_checked_before_the_payload_and_the_payload_before_the_guard() -> None:
    with pytest.raises(InsufficientPermissionsError):
        run(at("review"), "reject", EMPLOYEE, {"why": 1})
    with pytest.raises(InvalidPayloadError):
        run(at("review", user="ada"), "reject", APPROVER, {"why": 1})
    with pytest.raises(InvalidTransitionError):
        run(at("draft"), "approve", EMPLOYEE)


def test_only_what_the_caller_may_run_is_listed() -> None:
    assert names(at("draft"), EMPLOYEE) == ["submit"]
    assert names(at("review"), EMPLOYEE) == ["withdraw"]
    assert names(at("review"), APPROVER) == ["approve", "reject", "withdraw"]
    assert names(at("review", user="ada"), APPROVER) == ["withdraw"], "nobody approves what is theirs"
    assert names(at("review"), trusted_caller("eve")) == ["remind", "withdraw"]
    assert names(at("review"), ADMINISTRATOR) == ["approve", "reject", "remind", "withdraw"]


@pytest.mark.parametrize("caller", [EMPLOYEE, APPROVER, ADMINISTRATOR, BACK_END, trusted_caller("eve")])
@pytest.mark.parametrize("step", ["draft", "review", "approved"])
def test_what_is_listed_can_be_run_and_nothing_else(step: str, caller: Caller) -> None:
    state = at(step)
    payloads = {"submit": {"amount": 1, "reason": "x"}, "reject": {"why": "x"}}
    runnable = []
    for name in definition().flow.steps[step].transitions:
        try:
            run(state, name, caller, payloads.get(name, UNSET))
        except FlowError:
            continue
        runnable.append(name)
    assert names(state, caller) == runnable


def test_where_all_see_the_same() -> None:
    flow = definition().flow
    assert [name for name, step in flow.steps.items() if depends_on_caller(flow, step)] == ["review"]


async def test_a_flow_with_roles_is_seen_by_those_who_have_one() -> None:
    r = Rig()
    await r.service.create_flow(expense_flow(roles=["employee"]))
    stranger, eve = Caller("eve"), Origin(EMPLOYEE)
    await r.service.start_flow("eve", "expense", origin=eve)
    calls = [
        r.service.get_flow_state("eve", "expense", caller=stranger),
        r.service.get_flow_events("eve", "expense", caller=stranger),
        r.service.get_flow_history("eve", "expense", caller=stranger),
        r.service.verify_flow_history("eve", "expense", caller=stranger),
        r.service.definitions.current("expense", stranger),
        r.service.definitions.version("expense", 1, stranger),
        r.service.definitions.versions("expense", stranger),
        r.service.start_flow("eve", "expense", origin=Origin(stranger)),
        r.service.execute_transition("eve", "expense", "submit", origin=Origin(stranger)),
        r.service.reset_flow("eve", "expense", origin=Origin(stranger)),
        r.service.undo_transition("eve", "expense", origin=Origin(stranger)),
        r.service.clear_flow_state("eve", "expense", origin=Origin(stranger)),
    ]
    for call in calls:
        with pytest.raises(InsufficientPermissionsError) as refused:
            await call
        assert refused.value.details == {"flowId": "expense", "roles": ["employee"]}
    state = await r.service.get_flow_state("eve", "expense", caller=EMPLOYEE)
    assert state is not None
    assert state.revision == 0, "nothing was changed"
    assert await r.service.get_flow_state("eve", "expense", caller=ADMINISTRATOR) is not None
    found = await r.service.administration.find_states(StateFilter(user_id="eve"), caller=stranger)
    assert found.states == []


async def test_the_newest_version_decides_who_may_see_the_flow() -> None:
    r = Rig()
    await r.service.create_flow(expense_flow())
    await r.service.start_flow("eve", "expense", origin=Origin(Caller("eve")))
    await r.service.update_flow("expense", {"roles": ["employee"]})
    with pytest.raises(InsufficientPermissionsError):
        await r.service.get_flow_state("eve", "expense", caller=Caller("eve"))
    await r.flows.delete_flow("expense")
    with pytest.raises(InsufficientPermissionsError):
        await r.service.get_flow_state("eve", "expense", caller=Caller("eve"))
    assert await r.service.get_flow_state("eve", "expense", caller=EMPLOYEE) is not None


@pytest.mark.parametrize("caller", [EMPLOYEE, APPROVING_BACK_END, BACK_END])
async def test_users_cannot_start_past_a_check(caller: Caller) -> None:
    r = Rig()
    await r.service.create_flow(expense_flow())
    by = Origin(caller)
    with pytest.raises(InsufficientPermissionsError) as refused:
        await r.service.start_flow("eve", "expense", StartCommand(step="approved"), origin=by)
    assert refused.value.details == {"flowId": "expense", "step": "approved", "steps": ["draft"]}
    await r.service.start_flow("eve", "expense", StartCommand(step="draft"), origin=by)
    with pytest.raises(InsufficientPermissionsError):
        await r.service.reset_flow("eve", "expense", "approved", origin=by)
    assert (await r.service.reset_flow("eve", "expense", "draft", origin=by)).step == "draft"
    await r.service.clear_flow_state("eve", "expense", origin=by)
    with pytest.raises(InsufficientPermissionsError):
        await r.service.reset_flow("eve", "expense", "review", origin=by)
    root = Origin(ADMINISTRATOR)
    assert (await r.service.reset_flow("eve", "expense", "approved", origin=root)).step == "approved"


async def test_other_entrances_are_the_initial_steps_or_all_steps_of_a_flow_without_checks() -> None:
    r = Rig()
    flow = expense_flow()
    flow["steps"]["review"]["initial"] = True
    await r.service.create_flow(flow)
    await r.service.create_flow(flow_dict())
    by = Origin(EMPLOYEE)
    started, _ = await r.service.start_flow("eve", "expense", StartCommand(step="review"), origin=by)
    assert started.step == "review"
    started, _ = await r.service.start_flow("eve", "loop", StartCommand(step="c"), origin=by)
    assert started.step == "c"


@pytest.mark.parametrize("value", [2**70 + 1, "\ud800", {"deep": ["\udfff"]}, float("nan")])
async def test_a_guard_alone_sees_no_payload_that_cannot_be_retained(value: object) -> None:
    r = Rig()
    flow = flow_dict()
    flow["steps"]["a"]["transitions"]["go"]["guard"] = "payload.x == 1"
    await r.service.create_flow(flow)
    await r.flows.start_flow("eve", "loop")
    with pytest.raises(InvalidPayloadError) as refused:
        await r.flows.execute_transition("eve", "loop", "go", {"x": value})
    assert refused.value.details["errors"][0]["pointer"].startswith("/payload/x")


async def test_events_of_a_flow_that_was_restricted_meanwhile_are_for_those_who_may_see_it() -> None:
    r = Rig()
    await r.service.create_flow(flow_dict())
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("eve", "loop")
        await service.update_flow("loop", {"roles": ["staff"]})
        await flows.execute_transition("eve", "loop", "again")
        await flows.clear_flow_state("eve", "loop")
        await service.background.relay.drain(5)
        changed, ended = r.published[1:]
        for event in (changed, ended):
            assert not await service.updates.is_same_for_everyone(event)
            assert await service.updates.for_caller(event, Caller("eve")) is None
            assert await service.updates.for_caller(event, Caller("eve", frozenset({"staff"}))) is not None
        plain = r.published[0]
        await service.update_flow("loop", {"roles": None})
        assert await service.updates.is_same_for_everyone(plain)


async def test_the_timer_runs_what_no_role_may() -> None:
    r = Rig()
    await r.service.create_flow(expense_flow())
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("eve", "expense")
        await flows.execute_transition("eve", "expense", "submit", {"amount": 1, "reason": "x"})
        r.clock.advance(days=3)
        assert await service.background.due_changes.run_timeouts() == 1
        history = await flows.get_flow_history("eve", "expense")
    assert [(h.transition, h.actor) for h in history][-1] == ("remind", "timer")


async def test_a_refused_attempt_is_recorded_with_its_code() -> None:
    r = Rig()
    await r.service.create_flow(expense_flow())
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("ada", "expense")
        await flows.execute_transition("ada", "expense", "submit", {"amount": 1, "reason": "x"})
        origin = Origin(APPROVER)
        for name, payload, error in (
            ("approve", {}, GuardRefusedError),
            ("reject", {"why": 1}, InvalidPayloadError),
            ("remind", {}, InsufficientPermissionsError),
        ):
            with pytest.raises(error):
                await service.execute_transition("ada", "expense", name, payload, origin=origin)
        await service.background.relay.drain(5)
        history = await flows.get_flow_history("ada", "expense")
    assert {h.error for h in history if not h.success} == {
        "GUARD_REFUSED",
        "INVALID_PAYLOAD",
        "INSUFFICIENT_PERMISSIONS",
    }


RESET_AND_CLEAR = [
    (None, [EMPLOYEE, APPROVING_BACK_END, BACK_END, ADMINISTRATOR]),
    (True, [EMPLOYEE, APPROVING_BACK_END, BACK_END, ADMINISTRATOR]),
    (["approver", "boss"], [APPROVING_BACK_END, ADMINISTRATOR]),
    (["employee"], [EMPLOYEE, APPROVING_BACK_END, ADMINISTRATOR]),
    (False, [ADMINISTRATOR]),
    ([], [ADMINISTRATOR]),
]


@pytest.mark.parametrize(("given", "may"), RESET_AND_CLEAR)
@pytest.mark.parametrize("member", ["resettable", "clearable"])
async def test_who_may_reset_and_clear_a_state(member: str, given: Any, may: list[Caller]) -> None:
    r = Rig()
    await r.service.create_flow(flow_dict(**({} if given is None else {member: given})))

    async def request(caller: Caller, member: str) -> object:
        origin = Origin(caller)
        if member == "resettable":
            return await r.service.reset_flow("eve", "loop", origin=origin)
        return await r.service.clear_flow_state("eve", "loop", origin=origin)

    (other,) = {"resettable", "clearable"} - {member}
    async with r.service as service:
        flows = service.as_trusted()
        for caller in (EMPLOYEE, APPROVING_BACK_END, BACK_END, ADMINISTRATOR):
            await flows.start_flow("eve", "loop")
            if caller in may:
                assert await request(caller, member)
            else:
                with pytest.raises(InsufficientPermissionsError) as refused:
                    await request(caller, member)
                roles = given if given else []
                assert refused.value.details == {"flowId": "loop", "roles": roles}
                assert (", ".join(roles) or ADMIN) in refused.value.message
            assert await request(caller, other), "the other one is as ever"
        await service.background.relay.drain(5)
        refusals = [h for h in await flows.get_flow_history("eve", "loop") if not h.success]
    assert len(refusals) == 4 - len(may)
    assert {h.error for h in refusals} <= {"INSUFFICIENT_PERMISSIONS"}


async def test_the_newest_version_decides_who_may_reset_and_clear() -> None:
    r = Rig()
    await r.service.create_flow(flow_dict())
    await r.flows.start_flow("eve", "loop")
    await r.service.update_flow("loop", {"resettable": False, "clearable": False})
    mine = Origin(EMPLOYEE)
    with pytest.raises(InsufficientPermissionsError):
        await r.service.reset_flow("eve", "loop", origin=mine)
    with pytest.raises(InsufficientPermissionsError):
        await r.service.clear_flow_state("eve", "loop", origin=mine)
    await r.service.update_flow("loop", {"clearable": ["employee"]})
    assert await r.service.clear_flow_state("eve", "loop", origin=mine)
    await r.flows.start_flow("eve", "loop")
    retired = Origin(ADMINISTRATOR)
    await r.service.delete_flow("loop", origin=retired)
    with pytest.raises(InsufficientPermissionsError):
        await r.service.reset_flow("eve", "loop", origin=mine)
    assert await r.service.clear_flow_state("eve", "loop", origin=retired)


async def test_a_reset_that_starts_and_a_clear_of_nothing_are_for_everybody() -> None:
    r = Rig()
    await r.service.create_flow(flow_dict(resettable=False, clearable=False))
    mine = Origin(EMPLOYEE)
    assert not await r.service.clear_flow_state("eve", "loop", origin=mine)
    assert (await r.service.reset_flow("eve", "loop", origin=mine)).revision == 0


async def test_an_administrator_clears_a_state_whose_definition_is_missing() -> None:
    r = Rig()
    await r.service.create_flow(flow_dict(clearable=False))
    await r.flows.start_flow("eve", "loop")
    stored = r.states.stored["loop:eve"]
    r.states.stored["loop:eve"] = structs.replace(stored, state=structs.replace(stored.state, version=99))
    assert await r.service.clear_flow_state("eve", "loop", origin=Origin(ADMINISTRATOR))
