"""Permission to undo a transition: whoever may run it, and of one that the timer ran an administrator
only."""

from typing import Any

import msgspec
import pytest
from msgspec import UNSET, structs

from app.contracts.callers import ADMIN, SERVICE, Caller, trusted_caller
from app.contracts.commands import Origin, SetCommand, TransitionCommand
from app.contracts.definition import FlowDefinition
from app.contracts.errors import GuardRefusedError, InsufficientPermissionsError
from app.contracts.flow import Flow
from app.contracts.state import FlowState
from app.contracts.wire.states import state_of_view, state_view
from app.flow import rules
from app.flow.undo import undo_roles
from app.flow.validation import check_flow
from app.flow.versions.mapping import StepMapping
from models.codec import state_from_document, state_to_document
from tests.support.rig import Rig
from tests.support.samples import T0, fresh

REQUESTER = Caller("ada")
APPROVER = Caller("bob", frozenset({"approver", "staff"}))
BACK_END = Caller("shop", scopes=frozenset({SERVICE}))
ADMINISTRATOR = Caller("root", scopes=frozenset({ADMIN}))


def request_flow(**changes: Any) -> dict[str, Any]:
    """From 'requested' to the end 'approved': by approvers, by anybody, by the timer."""

    def way(name: str, **more: Any) -> dict[str, Any]:
        return {name: {"transition": name, "step": "approved", "reversible": True, **more}}

    transitions = {
        **way("approve", roles=["approver"]),
        **way("accept"),
        **way("close", roles=[]),
        **way("lapse"),
    }
    return {
        "flow": "loop",
        "initialStep": "requested",
        "steps": {
            "requested": {
                "index": 0,
                "step": "requested",
                "service": "s",
                "timeout": {"after": "PT1H", "transition": "lapse"},
                "transitions": transitions,
            },
            "approved": {"index": 1, "step": "approved", "service": "s", "transitions": {}},
        },
        **changes,
    }


def published(version: int = 1, **changes: Any) -> FlowDefinition:
    flow = msgspec.convert(request_flow(**changes), Flow)
    return FlowDefinition(flow=flow, version=version, published_at=T0, published_by="tests", source="python")


FLOW = published()
REQUESTED = structs.replace(fresh(), step="requested")


def after(name: str, caller: Caller | None) -> FlowState:
    return rules.transition(FLOW, REQUESTED, name, TransitionCommand(), T0, caller)


@pytest.mark.parametrize(
    ("state", "roles", "may"),
    [
        (after("approve", APPROVER), ("approver",), [APPROVER, ADMINISTRATOR]),
        (after("approve", ADMINISTRATOR), ("approver",), [APPROVER, ADMINISTRATOR]),
        (after("accept", REQUESTER), UNSET, [REQUESTER, APPROVER, BACK_END, ADMINISTRATOR]),
        (after("lapse", REQUESTER), UNSET, [REQUESTER, APPROVER, BACK_END, ADMINISTRATOR]),
        (after("lapse", None), (), [ADMINISTRATOR]),
        (after("close", None), (), [ADMINISTRATOR]),
    ],
)
def test_undo_requires_what_the_transition_required(state: FlowState, roles: Any, may: list[Caller]) -> None:
    for caller in (REQUESTER, APPROVER, BACK_END, ADMINISTRATOR):
        assert rules.with_transitions(FLOW, state, caller, T0).undo_roles == roles
        if caller in may:
            undone = rules.back(FLOW, state, T0, caller)
            assert (undone.step, undone.previous, undone.undo_roles) == ("requested", UNSET, UNSET)
            continue
        with pytest.raises(InsufficientPermissionsError) as refusal:
            rules.back(FLOW, state, T0, caller)
        assert refusal.value.details == {"transition": "back", "roles": list(roles)}
        assert (roles[0] if roles else ADMIN) in refusal.value.message


def guarded_flow(*guards: str | None, **more: Any) -> FlowDefinition:
    """Ways from 'requested' to the end 'approved' with these guards."""
    steps = request_flow()["steps"]
    steps["requested"]["transitions"] = {
        f"way-{n}": {"transition": f"way-{n}", "step": "approved", "reversible": True, "guard": guard, **more}
        for n, guard in enumerate(guards)
    }
    del steps["requested"]["timeout"]
    return published(steps=steps)


@pytest.mark.parametrize(
    ("guards", "may"),
    [
        (["'approver' in user.roles"], [APPROVER, ADMINISTRATOR]),
        (["user.id != state.userId"], [APPROVER, BACK_END, ADMINISTRATOR]),
        (["state.step == 'requested' && 'approver' in user.roles"], [APPROVER, ADMINISTRATOR]),
        (["payload.paid && 'approver' in user.roles"], [APPROVER, ADMINISTRATOR]),
        (["'approver' in user.roles", "user.id == 'shop'"], [APPROVER, BACK_END, ADMINISTRATOR]),
        (["'approver' in user.roles", None], [REQUESTER, APPROVER, BACK_END, ADMINISTRATOR]),
        (["payload.paid"], [REQUESTER, APPROVER, BACK_END, ADMINISTRATOR]),
    ],
)
def test_undo_requires_the_guards_on_the_user_too(guards: list[str | None], may: list[Caller]) -> None:
    flow = guarded_flow(*guards)
    command = TransitionCommand(payload={"paid": True})
    state = rules.transition(flow, REQUESTED, "way-0", command, T0, APPROVER)
    for caller in (REQUESTER, APPROVER, BACK_END, ADMINISTRATOR):
        if caller in may:
            assert rules.back(flow, state, T0, caller).step == "requested"
            continue
        with pytest.raises(GuardRefusedError):
            rules.back(flow, state, T0, caller)


def test_a_guard_on_the_user_holds_beside_the_roles() -> None:
    flow = guarded_flow("user.id != state.userId", roles=["approver"])
    state = rules.transition(flow, REQUESTED, "way-0", TransitionCommand(), T0, APPROVER)
    with pytest.raises(GuardRefusedError):
        rules.back(flow, state, T0, Caller("ada", frozenset({"approver"})))
    assert rules.back(flow, state, T0, APPROVER).step == "requested"


def without_roles(state: FlowState) -> FlowState:
    """A state as versions before 0.5 stored it."""
    return structs.replace(state, undo_roles=UNSET)


def test_the_definition_decides_who_may_undo_what_an_older_version_ran() -> None:
    state = without_roles(after("approve", APPROVER))
    assert undo_roles(FLOW, state) is UNSET, "anybody may have run 'accept'"
    transitions = FLOW.flow.steps["requested"].transitions
    step = structs.replace(
        FLOW.flow.steps["requested"],
        transitions={
            "approve": transitions["approve"],
            "sign": structs.replace(transitions["approve"], transition="sign", roles=["boss"]),
        },
    )
    steps = {**FLOW.flow.steps, "requested": step}
    strict = structs.replace(FLOW, flow=structs.replace(FLOW.flow, steps=steps))
    assert undo_roles(strict, state) == ("approver", "boss")
    with pytest.raises(InsufficientPermissionsError):
        rules.back(strict, state, T0, REQUESTER)
    assert rules.back(strict, state, T0, APPROVER).step == "requested"


def test_where_no_transition_leads_from_the_step_before_an_administrator_may_undo() -> None:
    steps = request_flow()["steps"]
    steps["other"] = {"index": 2, "step": "other", "service": "s", "transitions": {}, "initial": True}
    restricted = published(steps=steps)
    state = rules.replace(restricted, REQUESTED, SetCommand(step="requested", previous="other"), T0)
    assert undo_roles(restricted, state) == ()
    for transition in steps["requested"]["transitions"].values():
        transition.pop("roles", None)
    assert undo_roles(published(steps=steps), state) is UNSET, "the flow restricts nothing"


@pytest.mark.parametrize("timed", [False, True])
def test_the_roles_stay_while_the_state_is_paused_migrated_and_stored(timed: bool) -> None:
    state = after("lapse", None) if timed else after("approve", APPROVER)
    assert state_from_document({"_id": state.key, **state_to_document(state)}) == state
    assert state_of_view(state_view(state)) == state
    other = request_flow()["steps"]
    other["requested"]["transitions"] = {
        "accept": {"transition": "accept", "step": "approved", "reversible": True},
        "lapse": {"transition": "lapse", "step": "approved"},
    }
    running = structs.replace(state, status="active", step="requested", previous="requested")
    moved = StepMapping(FLOW, published(2, steps=other)).move(running, T0)
    assert (moved.previous, moved.undo_roles) == ("requested", state.undo_roles)


def test_what_drops_the_step_before_drops_its_roles() -> None:
    state = after("approve", APPROVER)
    again = structs.replace(state, step="requested", status="active")
    for dropped in (
        rules.replace(FLOW, state, SetCommand(step="approved"), T0),
        rules.end(state, "cleared", T0),
        StepMapping(FLOW, published(2), {}).move(REQUESTED, T0),
        rules.transition(FLOW, again, "accept", TransitionCommand(), T0, REQUESTER),
    ):
        assert dropped.undo_roles is UNSET


async def test_the_requester_cannot_reopen_what_an_approver_approved() -> None:
    r = Rig()
    await r.service.create_flow(request_flow())
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("ada", "loop")
        approved = Origin(structs.replace(APPROVER, scopes=frozenset({SERVICE})))
        state = await service.execute_transition("ada", "loop", "approve", origin=approved)
        assert (state.status, state.undo_roles) == ("completed", ("approver",))
        with pytest.raises(InsufficientPermissionsError):
            await service.undo_transition("ada", "loop", origin=Origin(REQUESTER))
        assert (await service.undo_transition("ada", "loop", origin=approved)).status == "active"
        await service.background.relay.drain(5)
        history = await flows.get_flow_history("ada", "loop")
    assert [(h.kind, h.transition, h.error) for h in history][2:] == [
        ("refused", "undone", "INSUFFICIENT_PERMISSIONS"),
        ("undone", "undone", UNSET),
    ]


async def test_what_the_timer_did_is_undone_by_an_administrator_alone() -> None:
    r = Rig()
    await r.service.create_flow(request_flow())
    await r.flows.start_flow("ada", "loop")
    r.clock.advance(hours=1)
    assert await r.service.background.due_changes.run_timeouts() == 1
    with pytest.raises(InsufficientPermissionsError, match="flow:admin"):
        await r.service.undo_transition("ada", "loop", origin=Origin(REQUESTER))
    undone = await r.service.undo_transition("ada", "loop", origin=Origin(trusted_caller("root")))
    assert undone.step == "requested"


def test_a_reversible_transition_into_an_end_is_warned_about_where_roles_are_required() -> None:
    found = [f for f in check_flow(request_flow()) if "opens a completed state again" in f.message]
    ways = [
        f"/steps/requested/transitions/{name}/reversible" for name in ("approve", "accept", "close", "lapse")
    ]
    assert [(f.pointer, f.severity) for f in found] == [(way, "warning") for way in ways]
    open_to_all = request_flow()
    for transition in open_to_all["steps"]["requested"]["transitions"].values():
        transition.pop("roles", None)
    assert not [f for f in check_flow(open_to_all) if "opens a completed state again" in f.message]
