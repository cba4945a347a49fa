"""Ids that Python programs give may be anything; one that names nothing changes nothing, and
is no question to the database."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from app.contracts.commands import BatchAction, PauseCommand, SetCommand, trusted_origin
from app.contracts.errors import FlowNotFoundError, InvalidRequestError
from app.contracts.migration import MigrateCommand
from app.contracts.ports.states import StateFilter
from app.services import FlowService
from tests.support.rig import Rig
from tests.support.samples import PROGRAM, flow_dict

NO_TEXTS: list[Any] = [None, 5, ["ada"], {"$ne": "x"}]
NO_NAMES = ["", "a\0b", "a\x9b2J", "\ud800", "x" * 257]
ORIGIN = trusted_origin("root")
OF_A_STATE: dict[str, Callable[[FlowService, Any, Any], Awaitable[object]]] = {
    "get": lambda s, user, flow: s.as_trusted().get_flow_state(user, flow),
    "events": lambda s, user, flow: s.as_trusted().get_flow_events(user, flow),
    "start": lambda s, user, flow: s.as_trusted().start_flow(user, flow),
    "transition": lambda s, user, flow: s.as_trusted().execute_transition(user, flow, "go"),
    "reset": lambda s, user, flow: s.as_trusted().reset_flow(user, flow),
    "undo": lambda s, user, flow: s.as_trusted().undo_transition(user, flow),
    "set": lambda s, user, flow: s.as_trusted().set_flow_state(user, SetCommand(flow=flow, step="a")),
    "clear": lambda s, user, flow: s.as_trusted().clear_flow_state(user, flow),
    "history": lambda s, user, flow: s.as_trusted().get_flow_history(user, flow),
    "verify": lambda s, user, flow: s.as_trusted().verify_flow_history(user, flow),
    "recover": lambda s, user, flow: s.administration.recover_flow(user, flow, origin=trusted_origin(user)),
    "pause": lambda s, user, flow: s.administration.pause_flow(
        user, flow, PauseCommand(reason="audit"), origin=trusted_origin(user)
    ),
    "resume": lambda s, user, flow: s.administration.resume_flow(user, flow, origin=trusted_origin(user)),
}
OF_A_USER: dict[str, Callable[[FlowService, Any], Awaitable[object]]] = {
    "flows": lambda s, user: s.as_trusted().get_user_flows(user),
    "export": lambda s, user: s.personal_data.export(user),
    "erase": lambda s, user: s.personal_data.erase(user, ORIGIN),
    "find": lambda s, user: s.administration.find_states(StateFilter(user_id=user), caller=PROGRAM),
}


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    async with rig.service:
        await rig.service.create_flow(flow_dict())
        await rig.flows.start_flow("ada", "loop")
        await rig.service.background.relay.drain(5)
        yield rig


async def pointers(asked: Awaitable[object]) -> list[str]:
    with pytest.raises(InvalidRequestError) as refused:
        await asked
    return [fault.pointer for fault in refused.value.faults]


@pytest.mark.parametrize("name", OF_A_STATE)
async def test_of_a_state(rig: Rig, name: str) -> None:
    before = dict(rig.states.stored)
    ask = OF_A_STATE[name]
    for wrong in (*NO_TEXTS, *NO_NAMES):
        assert await pointers(ask(rig.service, wrong, "loop")) == ["/userId"]
        assert await pointers(ask(rig.service, wrong, None)) == ["/userId", "/flowId"]
    for wrong in NO_TEXTS:
        assert await pointers(ask(rig.service, "ada", wrong)) == ["/flowId"]
    for wrong in NO_NAMES:
        with pytest.raises(FlowNotFoundError) as refused:
            await ask(rig.service, "ada", wrong)
        msgspec.json.encode(refused.value.details)
    assert rig.states.stored == before


@pytest.mark.parametrize("name", OF_A_USER)
async def test_of_a_user(rig: Rig, name: str) -> None:
    before = dict(rig.states.stored)
    for wrong in (*NO_TEXTS, *NO_NAMES):
        if name == "find" and wrong is None:
            continue  # which is any
        if name in ("export", "erase") and wrong in NO_NAMES and wrong != "\ud800":
            await OF_A_USER[name](rig.service, wrong)  # what there is from before there was a rule
            continue
        assert await pointers(OF_A_USER[name](rig.service, wrong)) == ["/userId"]
    assert rig.states.stored == before


OF_A_FLOW: dict[str, Callable[[FlowService, Any], Awaitable[object]]] = {
    "current": lambda s, flow: s.definitions.current(flow, PROGRAM),
    "version": lambda s, flow: s.definitions.version(flow, 1, PROGRAM),
    "versions": lambda s, flow: s.definitions.versions(flow, PROGRAM),
    "update": lambda s, flow: s.update_flow(flow, {"title": "New"}),
    "retire": lambda s, flow: s.definitions.retire(flow, actor="root", source="python"),
    "delete": lambda s, flow: s.as_trusted().delete_flow(flow),
    "delete with force": lambda s, flow: s.as_trusted().delete_flow(flow, force=True),
    "diff": lambda s, flow: s.migration.diff(flow, 1, 2, PROGRAM),
    "migrate": lambda s, flow: s.migration.migrate(
        flow, MigrateCommand(1, 2), origin=trusted_origin("python", "python")
    ),
}


@pytest.mark.parametrize("name", OF_A_FLOW)
async def test_of_a_flow(rig: Rig, name: str) -> None:
    before = dict(rig.definitions.published)
    for wrong in NO_TEXTS:
        assert await pointers(OF_A_FLOW[name](rig.service, wrong)) == ["/flowId"]
    for wrong in NO_NAMES:
        with pytest.raises(FlowNotFoundError):
            await OF_A_FLOW[name](rig.service, wrong)
    assert rig.definitions.published == before


async def test_every_member_of_a_filter_is_named(rig: Rig) -> None:
    everything: Any = {"$ne": ""}
    only = StateFilter(everything, everything, everything, everything)
    assert await pointers(rig.service.administration.find_states(only, caller=PROGRAM)) == [
        "/flowId",
        "/step",
        "/status",
        "/userId",
    ]
    clear = BatchAction(op="clear")
    assert await pointers(
        rig.service.bulk.run_on_found(StateFilter(user_id=""), clear, ORIGIN, after=None, limit=10)
    ) == ["/filter/userId"]
