"""Participants of a state lose sight of it together with their role, whenever that happens."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec import UNSET, structs

from app.auth.tokens import TokenVerifier
from app.contracts.callers import Caller
from app.contracts.commands import ClaimCommand, Origin, PauseCommand, SetCommand, StartCommand
from app.contracts.errors import InsufficientPermissionsError
from app.contracts.people import Participant
from app.contracts.positions import NOTHING_HELD, ExpectedPosition, HeldPosition
from app.contracts.state import StateId
from app.http.routes.streams import FlowStream
from tests.support.case_flows import (
    BY_GROUP,
    BY_ID,
    OWNER,
    REVIEWERS,
    STRANGER,
    case_flow,
    replace_people,
    started,
)
from tests.support.rig import Rig

VERIFIER = TokenVerifier(key="k" * 32, algorithms=["HS256"])

Command = Callable[[Rig, Origin], Awaitable[Any]]

COMMANDS: dict[str, Command] = {
    "start": lambda rig, origin: rig.service.start_flow("olga", "case", origin=origin),
    "transition": lambda rig, origin: rig.service.execute_transition("olga", "case", "check", origin=origin),
    "reset": lambda rig, origin: rig.service.reset_flow("olga", "case", origin=origin),
    "undo": lambda rig, origin: rig.service.undo_transition("olga", "case", origin=origin),
    "clear": lambda rig, origin: rig.service.clear_flow_state("olga", "case", origin=origin),
    "claim": lambda rig, origin: rig.service.people.claim("olga", "case", ClaimCommand(), origin=origin),
    "release": lambda rig, origin: rig.service.people.release("olga", "case", ClaimCommand(), origin=origin),
    "withdraw": lambda rig, origin: rig.service.people.withdraw("olga", "case", origin=origin),
}


async def with_case(**changes: Any) -> Rig:
    rig = Rig()
    await rig.service.create_flow(case_flow("case", **changes))
    return rig


def after_load(rig: Rig, number: int, change: Callable[[], Awaitable[Any]]) -> None:
    """Have a change made just before the states are loaded for the given time."""
    load, loads = rig.states.load, 0

    async def changing(*arguments: Any) -> Any:
        nonlocal loads
        loads += 1
        if loads == number:
            rig.states.load = load  # type: ignore[method-assign]
            await change()
        return await load(*arguments)

    rig.states.load = changing  # type: ignore[method-assign, assignment]


def refused() -> Any:
    return pytest.raises(InsufficientPermissionsError, match="Acting for another user")


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_command_of_a_participant_who_is_removed_meanwhile_is_refused_like_that_of_a_stranger(
    name: str,
) -> None:
    rig = await with_case(resettable=["reviewer"], clearable=["reviewer"])
    await started(rig, "case")
    after_load(rig, 2, lambda: replace_people(rig, "case"))
    with refused():
        await COMMANDS[name](rig, Origin(BY_ID))
    assert (await rig.flows.require_flow_state("olga", "case")).revision == 1, "the removal"


async def test_a_conflict_has_no_state_for_a_participant_who_is_removed_meanwhile() -> None:
    rig = await with_case()
    await started(rig, "case")
    after_load(rig, 2, lambda: replace_people(rig, "case"))
    with refused():
        await COMMANDS["transition"](rig, Origin(BY_ID, expected=ExpectedPosition(7)))


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_state_that_has_ended_does_not_begin_again_for_a_participant(name: str) -> None:
    rig = await with_case(resettable=["reviewer"], clearable=["reviewer"], ttl="PT1H")
    await started(rig, "case")
    rig.clock.advance(hours=2)  # no sweep has ended it
    with refused():
        await COMMANDS[name](rig, Origin(BY_ID))
    with refused():
        await rig.service.get_flow_state("olga", "case", caller=BY_ID)
    assert await rig.flows.get_flow_state("olga", "case") is None


@pytest.mark.parametrize("name", ["start", "reset"])
async def test_a_state_that_ends_meanwhile_does_not_begin_again_for_a_participant(name: str) -> None:
    rig = await with_case(resettable=["reviewer"])
    await started(rig, "case")
    after_load(rig, 2, lambda: rig.flows.clear_flow_state("olga", "case"))
    with refused():
        await COMMANDS[name](rig, Origin(BY_ID))
    assert await rig.flows.get_flow_state("olga", "case") is None


async def test_a_participant_who_is_removed_meanwhile_reads_nothing() -> None:
    rig = await with_case()
    await started(rig, "case")
    after_load(rig, 2, lambda: replace_people(rig, "case"))
    with refused():
        await rig.service.get_flow_state("olga", "case", caller=BY_ID)
    await replace_people(rig, "case", *REVIEWERS)
    after_load(rig, 2, lambda: replace_people(rig, "case"))
    with refused():
        await rig.service.get_flow_events("olga", "case", caller=BY_ID)


async def test_a_participant_catches_up_by_the_state_over_changes_of_a_time_without_a_role() -> None:
    rig = await with_case()
    first = await started(rig, "case")
    held = HeldPosition(first.epoch, 0)
    await replace_people(rig, "case", *REVIEWERS, Participant("reviewer", user_id="rob"))
    seen = await rig.service.get_flow_events("olga", "case", held, caller=BY_ID)
    assert (seen.complete, [event.revision for event in seen.events]) == (True, [1])
    await replace_people(rig, "case")
    with refused():
        await rig.service.get_flow_events("olga", "case", held, caller=BY_ID)
    await replace_people(rig, "case", *REVIEWERS)
    again = await rig.service.get_flow_events("olga", "case", held, caller=BY_ID)
    assert not again.complete, "which would be a claim that there are no other changes"
    assert again.state is not None
    assert (again.state.revision, again.events) == (3, ())


async def test_a_start_for_another_user_reserves_no_entity() -> None:
    rig = await with_case(instances="many")
    reserve, reserved = rig.entities.reserve, []

    async def counting(key: str, *rest: Any) -> str:
        reserved.append(key)
        return await reserve(key, *rest)

    rig.entities.reserve = counting  # type: ignore[method-assign, assignment]
    with refused():
        await rig.service.start_flow("olga", "case", StartCommand(), origin=Origin(STRANGER, request_id="r1"))
    assert reserved == []
    state, _ = await rig.service.start_flow(
        "olga", "case", StartCommand(), origin=Origin(OWNER, request_id="r1")
    )
    assert state.instance_id is not UNSET
    assert len(reserved) == 1


@pytest.mark.parametrize("caller", [BY_ID, STRANGER])
async def test_others_than_the_owner_start_nothing(caller: Caller) -> None:
    rig = await with_case()
    with refused():
        await COMMANDS["start"](rig, Origin(caller))


@pytest.mark.parametrize("caller", [BY_ID, STRANGER])
async def test_a_repair_is_not_for_participants(caller: Caller) -> None:
    """Routes ask for a scope; a Python program may pass any caller."""
    rig = await with_case()
    await started(rig, "case")
    origin = Origin(caller)
    requests: list[Callable[[], Awaitable[Any]]] = [
        lambda: rig.service.set_flow_state("olga", SetCommand(step="checked", flow="case"), origin=origin),
        lambda: rig.service.administration.pause_flow("olga", "case", PauseCommand("no"), origin=origin),
        lambda: rig.service.administration.resume_flow("olga", "case", origin=origin),
        lambda: rig.service.administration.recover_flow("olga", "case", origin=origin),
    ]
    for request in requests:
        with refused():
            await request()
    assert (await rig.flows.require_flow_state("olga", "case")).revision == 0


async def test_the_stream_of_a_participant_ends_with_the_state() -> None:
    rig = await with_case()
    async with rig.service:
        await started(rig, "case")
        reader = structs.replace(BY_ID, expires_at=time.time() + 60)
        stream = FlowStream(rig.service, VERIFIER, reader, StateId("case", "olga"))
        await stream.open(NOTHING_HELD)
        events = stream.events()
        assert (await anext(events)).event == "flow-state"
        await rig.flows.clear_flow_state("olga", "case")
        await rig.service.background.relay.drain(5)
        async with asyncio.timeout(5):
            rest = [event async for event in events]
        stream.close()
    assert [event.event for event in rest] == ["flow-state-updated", "flow-error"]
    assert json.loads(str(rest[-1].data))["code"] == "INSUFFICIENT_PERMISSIONS"


async def test_a_group_that_loses_its_role_takes_claims_and_votes_along() -> None:
    rig = Rig()
    flow = case_flow("case")
    flow["participants"]["auditor"]["claim"] = "PT15M"
    flow["steps"]["open"]["transitions"]["check"]["approvals"] = {"of": "auditor", "count": 3}
    await rig.service.create_flow(flow)
    ina = Participant("auditor", user_id="ina")
    await started(rig, "case", people=(*REVIEWERS, ina))
    for voter in (BY_GROUP, Caller("ina")):
        await COMMANDS["transition"](rig, Origin(voter))
    await COMMANDS["claim"](rig, Origin(BY_GROUP))
    state = await replace_people(rig, "case", ina, Participant("auditor", group="legal"))
    assert [vote.user_id for vote in state.votes or ()] == ["ina"]
    assert state.claims is UNSET
    assert state.step == "open"
    for name, step in (("leo", "open"), ("liz", "checked")):
        caller = Caller(name, groups=frozenset({"legal"}))
        assert (await COMMANDS["transition"](rig, Origin(caller))).step == step
