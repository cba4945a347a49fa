"""A flow that is retired by force: its running states end, each with a record, however often it is asked."""

from typing import Any

import pytest

from app.contracts.commands import PauseCommand, trusted_origin
from app.contracts.errors import (
    FlowNotFoundError,
    StoreUnavailableError,
    VersionConflictError,
)
from app.contracts.ports.states import StateFilter, StatePage
from app.contracts.record import HistoryRecord
from app.contracts.state import StatePosition
from app.services.administration import retirement
from tests.support.rig import Rig, rig
from tests.support.samples import PROGRAM

ROOT = trusted_origin("root")


async def running(r: Rig, users: int) -> None:
    for n in range(users):
        await r.flows.start_flow(f"u{n}", "loop")


async def test_running_states_end_and_completed_ones_stay() -> None:
    r = await rig()
    await running(r, 3)
    await r.service.administration.pause_flow(
        "u1", "loop", PauseCommand("audit"), origin=trusted_origin("u1")
    )
    await r.flows.execute_transition("u2", "loop", "jump")
    done = await r.service.delete_flow("loop", force=True, origin=ROOT)
    assert (done.ended, done.failed, done.more) == (2, 0, False)
    for user in ("u0", "u1"):
        assert await r.flows.get_user_flows(user) == []
        last = (await r.flows.get_flow_history(user, "loop"))[-1]
        assert (last.kind, last.actor, last.to_step) == ("cleared", "root", "a")
        with pytest.raises(FlowNotFoundError):
            await r.flows.execute_transition(user, "loop", "go")
    completed = await r.flows.get_flow_state("u2", "loop")
    assert completed is not None
    assert completed.status == "completed"


async def test_without_force_nothing_ends() -> None:
    r = await rig()
    await running(r, 1)
    done = await r.flows.delete_flow("loop")
    assert done.ended == 0
    assert (await r.flows.execute_transition("u0", "loop", "go")).step == "b"


async def test_it_can_be_repeated_and_then_ends_what_is_left() -> None:
    r = await rig()
    await running(r, 2)
    await r.flows.delete_flow("loop")
    assert (await r.flows.delete_flow("loop", force=True)).ended == 2
    assert (await r.flows.delete_flow("loop", force=True)).ended == 0
    assert len(await r.service.definitions.versions("loop", PROGRAM)) == 2, "retired once"
    with pytest.raises(FlowNotFoundError):
        await r.flows.delete_flow("loop")
    with pytest.raises(FlowNotFoundError):
        await r.flows.delete_flow("nothing", force=True)


async def test_more_states_than_one_call_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retirement, "CONCURRENCY", 2)
    monkeypatch.setattr(retirement, "MAX_STATES", 4)
    r = await rig()
    await running(r, 7)
    first = await r.flows.delete_flow("loop", force=True)
    second = await r.flows.delete_flow("loop", force=True)
    assert [(first.ended, first.more), (second.ended, second.more)] == [(4, True), (3, False)]


async def test_a_state_that_moves_meanwhile_ends_at_its_new_step(monkeypatch: pytest.MonkeyPatch) -> None:
    r = await rig()
    await running(r, 1)
    find = r.states.find

    async def moved_after_it_was_found(*asked: Any) -> StatePage:
        page = await find(*asked)
        if StateFilter(flow_id="loop") == asked[0] and page.states:
            await r.flows.execute_transition("u0", "loop", "go")
        return page

    monkeypatch.setattr(r.states, "find", moved_after_it_was_found)
    assert (await r.flows.delete_flow("loop", force=True)).ended == 1
    kinds = [(h.kind, h.to_step) for h in await r.flows.get_flow_history("u0", "loop")]
    assert kinds == [("started", "a"), ("transitioned", "b"), ("cleared", "b")]


async def test_a_state_that_is_resumed_behind_its_page_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    r = await rig()
    await running(r, 1)
    await r.service.administration.pause_flow(
        "u0", "loop", PauseCommand("audit"), origin=trusted_origin("u0")
    )
    find = r.states.find

    async def resumed_after_the_active_ones(*asked: Any) -> StatePage:
        page = await find(*asked)
        if r.states.stored["loop:u0"].state.status == "paused":
            await r.service.administration.resume_flow("u0", "loop", origin=trusted_origin("u0"))
        return page

    monkeypatch.setattr(r.states, "find", resumed_after_the_active_ones)
    done = await r.flows.delete_flow("loop", force=True)
    assert (done.ended, done.more) == (1, False)


async def test_a_store_that_is_away_ends_the_call_and_the_next_one_goes_on() -> None:
    r = await rig()
    await running(r, 3)
    commit, commits = r.states.commit, 0

    async def away_after_one(before: StatePosition | None, record: HistoryRecord) -> bool:
        nonlocal commits
        commits += 1
        if commits > 1:
            raise StoreUnavailableError
        return await commit(before, record)

    r.states.commit = away_after_one  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        await r.flows.delete_flow("loop", force=True)
    r.states.commit = commit  # type: ignore[method-assign]
    assert (await r.flows.delete_flow("loop", force=True)).ended == 2


async def test_only_the_version_that_was_meant_is_retired() -> None:
    r = await rig()
    await r.service.update_flow("loop", {"title": "Loop"})
    with pytest.raises(VersionConflictError) as refused:
        await r.flows.delete_flow("loop", expected_version=1)
    assert refused.value.details == {"flowId": "loop", "version": 2}
    await r.flows.delete_flow("loop", expected_version=2)
    with pytest.raises(VersionConflictError):
        await r.flows.delete_flow("loop", force=True, expected_version=2)
    assert (await r.flows.delete_flow("loop", force=True, expected_version=3)).ended == 0
