"""Timeouts of steps: what each change makes of them, and that the service runs what is due, once."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET, structs

from app.contracts.commands import PauseCommand, ResetCommand, SetCommand, TransitionCommand, trusted_origin
from app.contracts.definition import FlowDefinition
from app.contracts.errors import InvalidTransitionError, StatePausedError
from app.contracts.state import FlowState
from app.flow import rules
from app.flow.validation import check_flow
from tests.support.rig import Rig
from tests.support.samples import T0, definition, flow_dict, fresh

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
HOLD = PauseCommand(reason="checks")


def timed_flow(resume: str = "remaining", **changes: Any) -> dict[str, Any]:
    """The small flow, with 'go' after an hour in step a, and 'done' after a minute in b."""
    flow = flow_dict(**changes)
    flow["steps"]["a"]["timeout"] = {"after": "PT1H", "transition": "go", "resume": resume}
    flow["steps"]["b"]["timeout"] = {"after": "PT1M", "transition": "done"}
    return flow


def timed(resume: str = "remaining") -> tuple[FlowDefinition, FlowState]:
    one = definition(steps=timed_flow(resume)["steps"])
    return one, rules.reset(one, fresh(), ResetCommand(), T0)


def test_entering_a_step_starts_its_timeout() -> None:
    flow, state = timed()
    assert state.timeout_at == T0 + HOUR
    later = T0 + 5 * MINUTE
    assert rules.transition(flow, state, "again", TransitionCommand(), later).timeout_at == later + HOUR
    moved = rules.transition(flow, state, "go", TransitionCommand(), later)
    assert moved.timeout_at == later + MINUTE
    assert rules.transition(flow, moved, "done", TransitionCommand(), later).timeout_at is UNSET
    assert rules.replace(flow, moved, SetCommand(step="a"), later).timeout_at == later + HOUR
    assert rules.end(state, "cleared", later).timeout_at is UNSET


@pytest.mark.parametrize(
    ("resume", "while_held", "after"),
    [
        ("absolute", T0 + HOUR, T0 + HOUR),
        ("remaining", UNSET, T0 + 3 * HOUR + 50 * MINUTE),
        ("restart", UNSET, T0 + 4 * HOUR),
    ],
)
def test_what_a_pause_does_to_it(resume: str, while_held: Any, after: Any) -> None:
    flow, state = timed(resume)
    held = rules.pause(flow, state, HOLD, T0 + 10 * MINUTE)
    assert held.timeout_at == while_held
    assert rules.timeout(flow, held, T0 + 2 * HOUR) is None, "it waits"
    released = rules.resume(flow, held, T0 + 3 * HOUR)
    assert (released.timeout_at, released.timeout_left_ms) == (after, UNSET)


def test_a_state_set_while_it_is_held_waits_the_whole_time() -> None:
    flow, state = timed()
    held = rules.pause(flow, state, HOLD, T0 + 10 * MINUTE)
    moved = rules.replace(flow, held, SetCommand(step="b"), T0 + 20 * MINUTE)
    assert (moved.status, moved.timeout_at, moved.timeout_left_ms) == ("paused", UNSET, 60_000)
    assert rules.resume(flow, moved, T0 + HOUR).timeout_at == T0 + HOUR + MINUTE


def test_a_timeout_is_due_at_its_moment() -> None:
    flow, state = timed()
    assert rules.timeout(flow, state, T0 + HOUR - timedelta(milliseconds=1)) is None
    due = rules.timeout(flow, state, T0 + HOUR)
    assert due is not None
    transition, after = due
    assert (transition, after.step, after.revision) == ("go", "b", state.revision + 1)


@pytest.mark.parametrize(
    ("timeout", "pointer"),
    [
        ({"after": "PT1H", "transition": "fly"}, "/steps/a/timeout/transition"),
        ({"after": "an hour", "transition": "go"}, "/steps/a/timeout/after"),
        ({"after": "PT0S", "transition": "go"}, "/steps/a/timeout/after"),
        ({"after": "-PT1S", "transition": "go"}, "/steps/a/timeout/after"),
        ({"after": "PT0.0001S", "transition": "go"}, "/steps/a/timeout/after"),
        ({"after": "P99999D", "transition": "go"}, "/steps/a/timeout/after"),
        ({"after": "PT1H", "transition": "go", "resume": "maybe"}, "/steps/a/timeout/resume"),
        ({"transition": "go"}, "/steps/a/timeout"),
        ({"after": "PT1H", "transition": "go", "then": 1}, "/steps/a/timeout"),
    ],
)
def test_a_timeout_is_checked_with_its_definition(timeout: Any, pointer: str) -> None:
    flow = flow_dict()
    flow["steps"]["a"]["timeout"] = timeout
    assert pointer in [finding.pointer for finding in check_flow(flow)]


async def started(**flow: Any) -> Rig:
    rig = Rig()
    await rig.service.create_flow(timed_flow(**flow))
    await rig.flows.start_flow("ada", "loop")
    return rig


async def test_what_is_due_runs_once_by_the_timer() -> None:
    rig = await started()
    assert await rig.service.background.due_changes.run_timeouts() == 0
    rig.clock.advance(hours=1)
    assert await rig.service.background.due_changes.run_timeouts() == 1
    assert await rig.service.background.due_changes.run_timeouts() == 0
    history = await rig.flows.get_flow_history("ada", "loop")
    assert [(r.kind, r.transition, r.actor) for r in history] == [
        ("started", "started", "ada"),
        ("transitioned", "go", "timer"),
    ]
    rig.clock.advance(minutes=1)
    assert await rig.service.background.due_changes.run_timeouts() == 1, "the next step has one too"
    state = await rig.flows.get_flow_state("ada", "loop")
    assert state is not None
    assert (state.step, state.status, state.timeout_at) == ("c", "completed", UNSET)


async def test_a_coming_timeout_runs_at_its_moment() -> None:
    rig = await started()  # due in an hour
    rig.clock.advance(seconds=0.2)
    await rig.flows.start_flow("bob", "loop")
    rig.clock.advance(minutes=20)
    await rig.flows.start_flow("eve", "loop")
    rig.clock.advance(minutes=39, seconds=59.8)
    ahead = asyncio.create_task(rig.service.background.due_changes.run_coming_timeouts(1.0))
    while len(await rig.kinds("ada")) < 2:
        await asyncio.sleep(0)
    assert await rig.kinds("bob") == ["started"], "0.2 seconds are left"
    rig.clock.advance(seconds=0.2)
    assert await ahead == 2
    assert await rig.kinds("bob") == ["started", "transitioned"]
    assert await rig.kinds("eve") == ["started"], "it is due later than in a second"


async def test_a_command_after_the_due_moment_finds_the_state_moved_on() -> None:
    """However late the sweep comes: who acts after the moment acts after the timer."""
    rig = await started()
    rig.clock.advance(hours=1)
    async with rig.service as service:
        flows = service.as_trusted()
        with pytest.raises(InvalidTransitionError) as refusal:
            await flows.execute_transition("ada", "loop", "jump")
        await service.background.relay.drain(5)
    assert refusal.value.details["fromStep"] == "b"
    assert await rig.kinds() == ["started", "transitioned", "refused"]


async def test_workers_that_sweep_at_once_run_it_once() -> None:
    rig = await started()
    other = rig.make()
    rig.clock.advance(hours=1)
    ran = await asyncio.gather(
        rig.service.background.due_changes.run_timeouts(), other.background.due_changes.run_timeouts()
    )
    assert sum(ran) == 1
    assert await rig.kinds() == ["started", "transitioned"]


async def test_a_held_state_does_not_time_out() -> None:
    rig = await started(resume="absolute")
    await rig.service.administration.pause_flow("ada", "loop", HOLD, origin=trusted_origin("ada"))
    rig.clock.advance(hours=2)
    assert await rig.service.background.due_changes.run_timeouts() == 0
    with pytest.raises(StatePausedError):
        await rig.flows.execute_transition("ada", "loop", "go")
    await rig.service.administration.resume_flow("ada", "loop", origin=trusted_origin("ada"))
    assert await rig.service.background.due_changes.run_timeouts() == 1


async def test_an_expired_state_does_not_come_back_by_its_timeout() -> None:
    rig = await started(ttl="PT2H")
    rig.clock.advance(hours=3)
    assert await rig.flows.get_flow_state("ada", "loop") is None
    assert await rig.service.background.due_changes.run_timeouts() == 1
    assert await rig.kinds() == ["started", "expired"]


@pytest.mark.expected_logs("timeout failed")
async def test_one_that_cannot_run_holds_up_no_other() -> None:
    rig = await started()
    await rig.flows.start_flow("bob", "loop")
    stored = rig.states.stored["loop:ada"]
    rig.states.stored["loop:ada"] = structs.replace(stored, state=structs.replace(stored.state, version=99))
    rig.clock.advance(hours=1)
    assert await rig.service.background.due_changes.run_timeouts() == 1
    assert await rig.kinds("bob") == ["started", "transitioned"]
    await rig.flows.reset_flow("ada", "loop")
