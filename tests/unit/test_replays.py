"""Replays of events to a service."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from app.contracts.callers import ADMIN, SERVICE, Caller
from app.contracts.deliveries import Lane, LaneId, LanePosition, LaneUpdate, Mark
from app.contracts.delivery_commands import ReplayCommand
from app.contracts.errors import (
    InsufficientPermissionsError,
    InvalidRequestError,
    ServiceNotFoundError,
)
from app.contracts.integration_commands import RegistrationCommand
from app.contracts.state import StateId
from app.services.integrations.replay import ReplayResult
from tests.support.rig import Rig, rig

ROOT = Caller("root", scopes=frozenset({ADMIN}))
ITSELF = Caller("service:svc", scopes=frozenset({SERVICE}), service="svc")


async def made(*users: str, changes: int = 3) -> tuple[Rig, dict[str, LanePosition]]:
    """A service that has received the start and further changes of each user's state, a minute each."""
    there = await rig()
    await there.service.integrations.administration.register("svc", RegistrationCommand(), ROOT)
    ends = {}
    for user in users:
        state = (await there.flows.start_flow(user, "loop")).state
        for _ in range(changes):
            there.clock.advance(minutes=1)
            state = await there.flows.execute_transition(user, "loop", "again")
        ends[user] = LanePosition(state.epoch, state.revision)
        await deliver(there, user, ends[user])
    return there, ends


async def deliver(there: Rig, user: str, until: LanePosition) -> None:
    """Move the cursor of a lane as a dispatcher does."""
    now = there.clock.now()
    lane_id = LaneId("svc", StateId("loop", user))
    await there.lanes.mark([Mark("svc", lane_id.state_id, until, now)], now)
    (lane,) = await there.lanes.claim([lane_id], "me", now, now + timedelta(minutes=1))
    await there.lanes.release([LaneUpdate(lane=lane, cursor=until, due_at=None)], now)


def jobs(there: Rig) -> dict[str, Lane]:
    """The lanes of replays, by user."""
    return {lane.id.state_id.user_id: lane for lane in there.lanes.lanes.values() if lane.id.job}


async def replay(there: Rig, caller: Caller = ROOT, **members: Any) -> ReplayResult:
    return await there.service.integrations.replays.replay("svc", ReplayCommand(**members), caller)


async def test_a_range_of_time() -> None:
    there, ends = await made("ada", "bob")
    first = (await there.flows.get_flow_history("ada", "loop"))[1].timestamp
    whole: dict[str, Any] = {"since": first, "until": first + timedelta(minutes=2)}
    assert await replay(there, dry_run=True, **whole) == ReplayResult(1, 2)
    assert jobs(there) == {}
    assert await replay(there, **whole) == ReplayResult(1, 2)
    (lane,) = jobs(there).values()
    epoch = ends["ada"].epoch
    assert lane.cursor == LanePosition(epoch, 0)
    assert lane.end == lane.newest == LanePosition(epoch, 2)
    assert lane.due_at == there.clock.now()


async def test_from_a_revision_of_a_state() -> None:
    there, ends = await made("ada", "bob")
    found = await replay(there, ITSELF, from_revision=2, flow_id="loop", user_id="bob")
    assert found == ReplayResult(1, 2)
    assert {user: (lane.cursor, lane.end) for user, lane in jobs(there).items()} == {
        "bob": (LanePosition(ends["bob"].epoch, 1), ends["bob"])
    }


async def test_a_replay_from_the_start_of_an_epoch_skips_epochs_before() -> None:
    there, _ = await made("ada")
    await there.flows.clear_flow_state("ada", "loop")
    there.clock.advance(minutes=1)
    again = (await there.flows.start_flow("ada", "loop")).state
    await deliver(there, "ada", LanePosition(again.epoch, 0))
    assert await replay(there, from_revision=0, flow_id="loop", user_id="ada") == ReplayResult(1, 1)
    (lane,) = jobs(there).values()
    assert (lane.cursor, lane.since) == (None, there.clock.now())
    assert lane.end == LanePosition(again.epoch, 0)


async def test_what_was_not_delivered_yet_is_not_replayed() -> None:
    there, ends = await made("ada")
    state = await there.flows.execute_transition("ada", "loop", "again")
    now = there.clock.now()
    late = Mark("svc", StateId("loop", "ada"), LanePosition(state.epoch, state.revision), now)
    await there.lanes.mark([late], now)
    assert await replay(there, since=now - timedelta(days=1)) == ReplayResult(1, 4)
    assert jobs(there)["ada"].end == ends["ada"]
    await there.flows.start_flow("eve", "loop")
    await there.lanes.mark([structs.replace(late, state_id=StateId("loop", "eve"))], now)
    assert await replay(there, since=now - timedelta(days=1)) == ReplayResult(1, 4), "nothing of eve yet"


async def test_states_are_selected_and_paged() -> None:
    there, _ = await made("ada", "bob", "cid")
    since = there.clock.now() - timedelta(days=1)
    assert await replay(there, since=since, user_id="bob", flow_id="loop") == ReplayResult(1, 4)
    assert await replay(there, since=since, flow_id="other") == ReplayResult(0, 0)
    pages = [await replay(there, since=since, limit=2, dry_run=True)]
    while pages[-1].next is not None:
        pages.append(await replay(there, since=since, limit=2, dry_run=True, after=pages[-1].next))
    assert sum(page.states for page in pages) == 3


@pytest.mark.parametrize(
    ("members", "pointers"),
    [
        ({}, [""]),
        ({"from_revision": 1}, ["/fromRevision"]),
        ({"from_revision": 1, "user_id": "ada"}, ["/fromRevision"]),
        ({"epoch": "e"}, ["", "/epoch"]),
    ],
)
async def test_an_incomplete_range_is_refused(members: dict[str, Any], pointers: list[str]) -> None:
    there, _ = await made("ada")
    with pytest.raises(InvalidRequestError) as refused:
        await replay(there, **members)
    assert [fault.pointer for fault in refused.value.faults] == pointers
    now = there.clock.now()
    with pytest.raises(InvalidRequestError) as refused:
        await replay(there, since=now, until=now)
    assert [fault.pointer for fault in refused.value.faults] == ["/until"]


async def test_others_are_refused() -> None:
    there, _ = await made("ada")
    for caller in (Caller("ada"), Caller("service:other", scopes=frozenset({SERVICE}), service="other")):
        with pytest.raises(InsufficientPermissionsError):
            await replay(there, caller, since=there.clock.now())
    command = ReplayCommand(since=there.clock.now())
    with pytest.raises(ServiceNotFoundError):
        await there.service.integrations.replays.replay("nowhere", command, ROOT)
