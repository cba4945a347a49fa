"""Limits of a service's credential, by the steps that it owns."""

from typing import Any

import pytest

from app.contracts.callers import ADMIN, Caller, service_caller
from app.contracts.commands import (
    ClaimCommand,
    Origin,
    ParticipantsCommand,
    PauseCommand,
    SetCommand,
    StartCommand,
)
from app.contracts.errors import (
    FlowNotFoundError,
    FlowNotStartedError,
    InsufficientPermissionsError,
    RevisionConflictError,
    SeparationOfDutiesError,
)
from app.contracts.people import Participant
from app.contracts.ports.states import StateFilter
from app.contracts.positions import ExpectedPosition
from app.contracts.state import FlowState
from tests.support.rig import Rig

PAYMENT = service_caller("payment")
BY_PAYMENT = Origin(PAYMENT)
LIMITED = "limited to the service payment"


def flow(*owners: str, slug: str = "shop", **changes: Any) -> dict[str, Any]:
    """A flow whose steps belong to the owners, in a circle; ``go`` is its only transition."""
    names = [f"s{n}" for n in range(len(owners))]
    steps = {
        name: {
            "index": n,
            "step": name,
            "service": owner,
            "transitions": {"go": {"transition": "go", "step": names[(n + 1) % len(names)]}},
        }
        for n, (name, owner) in enumerate(zip(names, owners, strict=True))
    }
    return {"flow": slug, "initialStep": names[0], "steps": steps, **changes}


async def shop(definition: dict[str, Any], **command: Any) -> Rig:
    """A service on which olga has started the flow."""
    rig = Rig()
    await rig.service.create_flow(definition)
    await rig.service.start_flow(
        "olga", definition["flow"], StartCommand(**command), origin=Origin(Caller("olga"))
    )
    return rig


async def go(rig: Rig, caller: Caller = PAYMENT, **origin: Any) -> FlowState:
    return await rig.service.execute_transition("olga", "shop", "go", origin=Origin(caller, **origin))


async def reads(rig: Rig, user: str = "olga", flow_id: str = "shop") -> bool:
    """Return whether the service reads a state, in every way in the same manner."""
    found = []
    service = rig.service
    for attempt in (
        lambda: service.get_flow_state(user, flow_id, caller=PAYMENT),
        lambda: service.get_flow_history(user, flow_id, caller=PAYMENT),
        lambda: service.verify_flow_history(user, flow_id, caller=PAYMENT),
        lambda: service.get_flow_events(user, flow_id, caller=PAYMENT),
        lambda: service.catch_up.require_access(service_state(flow_id, user), PAYMENT),
    ):
        try:
            await attempt()
        except InsufficientPermissionsError as refusal:
            if LIMITED not in refusal.message:
                raise
            found.append(False)
        else:
            found.append(True)
    assert len(set(found)) == 1, found
    return found[0]


def service_state(flow_id: str, user: str) -> Any:
    from app.contracts.state import StateId

    return StateId(flow_id, user)


async def test_a_service_runs_transitions_of_its_own_steps_for_any_user() -> None:
    rig = await shop(flow("payment", "user"))
    assert (await go(rig)).step == "s1"
    with pytest.raises(InsufficientPermissionsError, match=LIMITED):
        await go(rig)
    await rig.flows.execute_transition("olga", "shop", "go")
    assert (await go(rig)).step == "s1"


async def test_a_reference_of_the_config_names_the_owner() -> None:
    rig = await shop(flow("$pay", "user", config={"services": {"pay": "payment"}}))
    assert (await go(rig)).step == "s1"


@pytest.mark.parametrize(("target", "allowed"), [("payment", True), ("user", False), ("", False)])
async def test_a_step_of_the_target_belongs_to_the_service_that_the_state_targets(
    target: str, allowed: bool
) -> None:
    rig = await shop(flow("-", "user"), service=target)
    assert await reads(rig) is allowed
    if allowed:
        assert (await go(rig)).step == "s1"
    else:
        with pytest.raises(InsufficientPermissionsError, match=LIMITED):
            await go(rig)
    assert not await reads(rig, "nobody"), "nobody learns which states there are"


async def test_a_service_with_no_step_reads_nothing_whether_or_not_there_is_a_state() -> None:
    rig = await shop(flow("user", "user"))
    assert not await reads(rig)
    assert not await reads(rig, "nobody")
    with pytest.raises(FlowNotFoundError):
        await rig.service.get_flow_state("olga", "unknown", caller=PAYMENT)


async def test_the_version_of_the_state_counts_as_well_as_the_newest() -> None:
    rig = await shop(flow("payment", "user"))
    await rig.service.update_flow("shop", {"steps": flow("user", "user")["steps"]})
    assert await reads(rig), "its version has a step of the service"
    assert not await reads(rig, "nobody")
    assert (await rig.service.definitions.version("shop", 1, PAYMENT)).version == 1
    for version in (rig.service.definitions.version("shop", 2, PAYMENT),):
        with pytest.raises(InsufficientPermissionsError, match=LIMITED):
            await version
    assert (await go(rig)).step == "s1"
    await rig.flows.reset_flow("olga", "shop")
    assert not await reads(rig)

    await rig.service.update_flow("shop", {"steps": flow("user", "payment")["steps"]})
    assert await reads(rig), "the newest version has a step of the service"
    with pytest.raises(InsufficientPermissionsError, match=LIMITED):
        await go(rig)


async def test_every_other_change_is_refused_and_changes_nothing() -> None:
    people = {"clerk": {"assignable": True, "claim": "PT1H"}}
    rig = await shop(flow("payment", "user", participants=people, resettable=True, clearable=True))
    service, before = rig.service, await rig.flows.get_flow_state("olga", "shop")
    participants = ParticipantsCommand((Participant("clerk", user_id="service:payment"),))
    for attempt in (
        service.start_flow("olga", "shop", origin=BY_PAYMENT),
        service.start_flow("new", "shop", origin=BY_PAYMENT),
        service.start_flow("service:payment", "shop", origin=BY_PAYMENT),
        service.reset_flow("olga", "shop", origin=BY_PAYMENT),
        service.undo_transition("olga", "shop", origin=BY_PAYMENT),
        service.clear_flow_state("olga", "shop", origin=BY_PAYMENT),
        service.set_flow_state("olga", SetCommand("s1", "shop"), origin=BY_PAYMENT),
        service.people.assign("olga", "shop", participants, origin=BY_PAYMENT),
        service.people.claim("olga", "shop", ClaimCommand(), origin=BY_PAYMENT),
        service.people.release("olga", "shop", ClaimCommand(), origin=BY_PAYMENT),
        service.people.withdraw("olga", "shop", origin=BY_PAYMENT),
        service.administration.pause_flow("olga", "shop", PauseCommand("x"), origin=BY_PAYMENT),
        service.administration.resume_flow("olga", "shop", origin=BY_PAYMENT),
        service.administration.recover_flow("olga", "shop", origin=BY_PAYMENT),
    ):
        with pytest.raises(InsufficientPermissionsError, match=LIMITED):
            await attempt
    assert await rig.flows.get_flow_state("olga", "shop") == before
    for user in ("new", "service:payment"):
        assert await rig.flows.get_flow_state(user, "shop") is None


async def test_owning_the_step_is_no_role_of_a_transition() -> None:
    definition = flow("payment", "user", participants={"clerk": {"assignable": True}})
    definition["steps"]["s0"]["transitions"]["go"]["roles"] = ["clerk", "teller"]
    rig = await shop(definition)
    state = await rig.service.get_flow_state("olga", "shop", caller=PAYMENT)
    assert state is not None
    assert state.transitions == ()
    with pytest.raises(InsufficientPermissionsError, match="one of the roles"):
        await go(rig)
    assert (await go(rig, service_caller("payment", roles=frozenset({"teller"})))).step == "s1"


async def test_a_state_gives_a_role_to_a_service() -> None:
    definition = flow("payment", "user", participants={"clerk": {"assignable": True}})
    definition["steps"]["s0"]["transitions"]["go"]["roles"] = ["clerk"]
    people = (Participant("clerk", user_id="service:payment"),)
    rig = await shop(definition, participants=people)
    assert (await go(rig)).step == "s1"
    with pytest.raises(InsufficientPermissionsError, match=LIMITED):
        await go(rig)


async def test_a_role_on_a_state_of_another_flow_opens_nothing() -> None:
    definition = flow("user", "user", participants={"clerk": {"assignable": True}})
    definition["steps"]["s0"]["transitions"]["go"]["roles"] = ["clerk"]
    rig = await shop(definition, participants=(Participant("clerk", user_id="service:payment"),))
    assert not await reads(rig)
    waiting = await rig.service.administration.list_awaiting("clerk", PAYMENT)
    assert waiting.states == []


async def test_the_roles_of_a_flow_do_not_hide_it_from_its_services() -> None:
    rig = Rig()
    await rig.service.create_flow(flow("payment", "user", roles=["staff"]))
    await rig.flows.start_flow("olga", "shop")
    assert await reads(rig)
    assert [each.flow for each in await rig.service.list_flows(caller=PAYMENT)] == ["shop"]
    assert await rig.service.list_flows(caller=service_caller("audit")) == []


async def test_rules_between_people_count_for_services() -> None:
    definition = flow("payment", "payment")
    definition["steps"]["s1"]["transitions"]["go"]["notBy"] = ["go"]
    rig = await shop(definition)
    await go(rig)
    with pytest.raises(SeparationOfDutiesError):
        await go(rig)


async def test_a_state_of_a_service_as_a_user_is_no_state_of_its_own() -> None:
    rig = Rig()
    await rig.service.create_flow(flow("user", "user"))
    await rig.flows.start_flow("service:payment", "shop")
    assert not await reads(rig, "service:payment")


async def test_conflicts_and_missing_states_are_answered_within_the_limits() -> None:
    rig = await shop(flow("payment", "user"))
    with pytest.raises(RevisionConflictError) as conflict:
        await go(rig, expected=ExpectedPosition(7))
    assert conflict.value.details["state"].step == "s0"
    with pytest.raises(FlowNotStartedError):
        await rig.service.execute_transition("nobody", "shop", "go", origin=BY_PAYMENT)

    other = await shop(flow("user", "user"))
    with pytest.raises(InsufficientPermissionsError, match=LIMITED):
        await go(other, expected=ExpectedPosition(7))
    with pytest.raises(InsufficientPermissionsError, match=LIMITED):
        await rig.service.execute_transition("olga", "shop", "go", origin=Origin(service_caller("payment2")))


async def test_a_request_that_is_repeated_gets_its_first_answer_at_another_service_s_step() -> None:
    rig = await shop(flow("payment", "user"))
    first = await go(rig, request_id="r-1")
    again = await go(rig, request_id="r-1")
    assert (again.position, again.transitions) == (first.position, ())
    with pytest.raises(InsufficientPermissionsError, match=LIMITED):
        await go(rig, request_id="r-2")


async def test_lists_have_states_of_its_own_flows_alone() -> None:
    rig = await shop(flow("payment", "user"))
    await rig.service.create_flow(flow("user", "user", slug="side"))
    await rig.service.create_flow(flow("user", "payment", slug="many", instances="many"))
    for flow_id in ("side", "many"):
        await rig.flows.start_flow("olga", flow_id)
    assert [each.flow for each in await rig.service.get_user_flows("olga", caller=PAYMENT)] == [
        "many",
        "shop",
    ]
    page = await rig.service.list_flow_states("olga", "many", caller=PAYMENT)
    assert len(page.states) == 1
    with pytest.raises(InsufficientPermissionsError, match=LIMITED):
        await rig.service.list_flow_states("olga", "side", caller=PAYMENT)
    everything = await rig.service.administration.find_states(StateFilter(), caller=PAYMENT)
    assert {each.flow for each in everything.states} == {"many", "shop"}


async def test_administrators_and_unlimited_services_are_not_limited() -> None:
    rig = await shop(flow("user", "user"))
    for scope in (ADMIN, "flow:service"):
        caller = Caller("other", scopes=frozenset({scope}))
        assert (await rig.service.get_flow_state("olga", "shop", caller=caller)) is not None
        await go(rig, caller)
