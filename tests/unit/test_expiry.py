"""Expiry of states: renewed by each change, and stopped while an administrator holds the state."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET, structs

from app.contracts.commands import PauseCommand, SetCommand, trusted_origin
from app.contracts.errors import FlowNotStartedError, StatePausedError
from app.contracts.migration import MigrateCommand
from app.contracts.ports.states import DamagedState, StateFilter
from app.contracts.state import FlowState
from app.flow import rules
from tests.support.rig import Rig
from tests.support.samples import PROGRAM, T0, definition, flow_dict, fresh

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
HOUR_MS = 3_600_000
HOLD = PauseCommand(reason="checks")


async def held(after: timedelta = 10 * MINUTE, **limits: Any) -> Rig:
    """A service with a state that expires an hour after its last change, and was paused ``after`` it."""
    rig = Rig(**limits)
    await rig.service.create_flow(flow_dict(ttl="PT1H"))
    await rig.flows.start_flow("ada", "loop")
    rig.clock.time += after
    await rig.service.administration.pause_flow("ada", "loop", HOLD, origin=trusted_origin("ada"))
    return rig


def stored(rig: Rig) -> FlowState:
    return rig.states.stored["loop:ada"].state


def test_a_pause_stops_the_clock_and_a_resumption_starts_it() -> None:
    flow, state = definition(), structs.replace(fresh(), expires_at=T0 + HOUR)
    paused = rules.pause(flow, state, HOLD, T0 + 10 * MINUTE)
    assert (paused.expires_at, paused.expiry_left_ms) == (UNSET, 50 * 60_000)
    assert not paused.is_gone_at(T0 + 1000 * HOUR)
    released = rules.resume(flow, paused, T0 + 9 * HOUR)
    assert (released.expires_at, released.expiry_left_ms) == (T0 + 9 * HOUR + 50 * MINUTE, UNSET)
    assert rules.end(paused, "cleared", T0).expiry_left_ms is UNSET


def test_a_state_without_expiry_has_none_after_a_pause() -> None:
    paused = rules.pause(definition(), fresh(), HOLD, T0)
    released = rules.resume(definition(), paused, T0 + HOUR)
    for state in (paused, released):
        assert (state.expires_at, state.expiry_left_ms) == (UNSET, UNSET)


@pytest.mark.parametrize("by_settings", [False, True])
async def test_a_held_state_does_not_expire(by_settings: bool) -> None:
    rig = Rig(state_ttl=HOUR)
    await rig.service.create_flow(flow_dict() if by_settings else flow_dict(ttl="PT1H"))
    await rig.flows.start_flow("ada", "loop")
    rig.clock.advance(minutes=10)
    await rig.service.administration.pause_flow("ada", "loop", HOLD, origin=trusted_origin("ada"))
    rig.clock.advance(hours=30)
    assert await rig.service.purge_expired_flows() == 0
    state = await rig.flows.get_flow_state("ada", "loop")
    assert state is not None
    assert (state.status, state.expires_at) == ("paused", UNSET)
    assert [
        s.user_id
        for s in (await rig.service.administration.find_states(StateFilter(), caller=PROGRAM)).states
    ] == ["ada"]
    assert (await rig.service.get_flow_statistics()).total_flows == 1
    with pytest.raises(StatePausedError):
        await rig.flows.execute_transition("ada", "loop", "go")
    resumed = await rig.service.administration.resume_flow("ada", "loop", origin=trusted_origin("ada"))
    assert resumed.expires_at == rig.clock.now() + 50 * MINUTE
    rig.clock.advance(minutes=49)
    assert await rig.flows.get_flow_state("ada", "loop") is not None
    rig.clock.advance(minutes=1)
    assert await rig.flows.get_flow_state("ada", "loop") is None
    with pytest.raises(FlowNotStartedError):
        await rig.service.administration.resume_flow("ada", "loop", origin=trusted_origin("ada"))
    assert await rig.kinds() == ["started", "paused", "resumed", "expired"]


async def test_pauses_in_turn_add_nothing_to_the_time_that_is_left() -> None:
    rig = await held()
    for _ in range(3):
        rig.clock.advance(hours=2)
        await rig.service.administration.resume_flow("ada", "loop", origin=trusted_origin("ada"))
        rig.clock.advance(minutes=10)
        await rig.service.administration.pause_flow("ada", "loop", HOLD, origin=trusted_origin("ada"))
    assert stored(rig).expiry_left_ms == 20 * 60_000


async def test_what_changes_a_held_state_renews_the_time_that_is_left() -> None:
    rig = await held()
    rig.clock.advance(hours=2)
    state = await rig.flows.set_flow_state("ada", SetCommand(flow="loop", step="b"))
    assert (state.status, state.expires_at, stored(rig).expiry_left_ms) == ("paused", UNSET, HOUR_MS)
    await rig.service.update_flow("loop", {"ttl": "PT2H"})
    rig.clock.advance(hours=2)
    assert (
        await rig.service.migration.migrate(
            "loop", MigrateCommand(1, 2), origin=trusted_origin("python", "python")
        )
    ).moved == 1
    assert (stored(rig).version, stored(rig).expires_at) == (2, UNSET)
    assert stored(rig).expiry_left_ms == 2 * HOUR_MS
    rig.clock.advance(hours=9)
    resumed = await rig.service.administration.resume_flow("ada", "loop", origin=trusted_origin("ada"))
    assert resumed.expires_at == rig.clock.now() + 2 * HOUR
    undone = await rig.flows.execute_transition("ada", "loop", "back")
    assert (undone.expires_at, stored(rig).expiry_left_ms) == (rig.clock.now() + 2 * HOUR, UNSET)


@pytest.mark.expected_logs("state recovered")
async def test_a_held_state_is_recovered_as_held() -> None:
    rig = await held()
    rig.clock.advance(hours=30)
    await rig.service.background.relay.deliver(rig.states.stored["loop:ada"].pending)
    found = rig.states.stored.pop("loop:ada")
    rig.states.damaged["loop:ada"] = DamagedState(found.state.position, "gone bad", None, found.head, (), ())
    recovered = await rig.service.administration.recover_flow("ada", "loop", origin=trusted_origin("ada"))
    assert recovered.state is not None
    assert (recovered.state.status, recovered.state.expires_at) == ("paused", UNSET)
    assert stored(rig).expiry_left_ms == HOUR_MS
    assert (await rig.flows.verify_flow_history("ada", "loop")).whole


async def test_a_state_that_ends_has_no_stopped_clock() -> None:
    rig = await held()
    await rig.flows.delete_flow("loop", force=True)
    assert (stored(rig).status, stored(rig).expiry_left_ms) == ("cleared", UNSET)


def as_paused_before(rig: Rig) -> None:
    """Let the stored state be as versions before 0.5 paused it: it expires an hour after the pause."""
    found = rig.states.stored["loop:ada"]
    old = structs.replace(found.state, expires_at=found.state.updated_at + HOUR, expiry_left_ms=UNSET)
    rig.states.stored["loop:ada"] = structs.replace(found, state=old)


async def test_the_clock_of_a_state_that_an_older_version_paused_is_stopped_in_time() -> None:
    rig = await held()
    as_paused_before(rig)
    rig.clock.advance(minutes=59)
    assert await rig.service.purge_expired_flows() == 0
    rig.clock.advance(minutes=30)
    assert await rig.flows.get_flow_state("ada", "loop") is not None, "also before the sweep"
    await rig.service.purge_expired_flows()
    assert (stored(rig).status, stored(rig).expires_at) == ("paused", UNSET)
    assert stored(rig).expiry_left_ms == HOUR_MS
    assert await rig.kinds() == ["started", "paused", "paused"]


async def test_a_state_that_an_older_version_paused_is_resumed_with_what_was_left() -> None:
    for hours in (0, 30):
        rig = await held()
        as_paused_before(rig)
        rig.clock.advance(hours=hours)
        resumed = await rig.service.administration.resume_flow("ada", "loop", origin=trusted_origin("ada"))
        assert resumed.expires_at == rig.clock.now() + HOUR
