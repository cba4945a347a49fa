"""The contract of DeliveryLanes."""

import asyncio
from datetime import datetime, timedelta

import pytest
from msgspec import structs

from app.contracts.deliveries import (
    DeliveryAttempt,
    Lane,
    LaneId,
    LanePosition,
    LaneUpdate,
    Mark,
    WaitingState,
)
from app.contracts.ports.deliveries import DeliveryLanes
from app.contracts.state import StateId
from app.kit.ids import new_id
from models.database import Database
from models.integrations.lanes import MongoDeliveryLanes
from tests.support.fake_deliveries import FakeDeliveryLanes
from tests.support.samples import T0

PORTS = (DeliveryLanes,)
EPOCH = "0193b5a0-0000-7000-8000-000000000000"
LATER_EPOCH = "0193b5a1-0000-7000-8000-000000000000"
ADA, BOB = StateId("loop", "ada"), StateId("loop", "b%3B;o\tb$", "e-1")
SECOND = timedelta(seconds=1)
UNTIL = T0 + 60 * SECOND
FAILED = DeliveryAttempt(
    at=T0, duration_ms=2.5, reason="receiver", status=500, error="it failed", body='{"a": "$b"}'
)


@pytest.fixture
def lanes(database: Database | None) -> DeliveryLanes:
    return FakeDeliveryLanes() if database is None else MongoDeliveryLanes(database)


def at(revision: int, epoch: str = EPOCH) -> LanePosition:
    return LanePosition(epoch, revision)


def mark_of(
    revision: int, state_id: StateId = ADA, *, alias: str = "pay", waits_since: datetime | None = None
) -> Mark:
    return Mark(alias, state_id, at(revision), T0 - SECOND, waits_since)


def done(lane: Lane, *, cursor: LanePosition | None = None, due_at: datetime | None = None) -> LaneUpdate:
    return LaneUpdate(lane=lane, cursor=cursor or lane.newest, due_at=due_at)


def failed(lane: Lane, due_at: datetime) -> LaneUpdate:
    return LaneUpdate(lane=lane, cursor=lane.cursor, due_at=due_at, failures=1, attempts=(FAILED,))


async def claim_all(lanes: DeliveryLanes, now: datetime = T0, alias: str = "pay") -> list[Lane]:
    ids = await lanes.list_due(alias, now, 100)
    return await lanes.claim(ids, new_id(), now, now + 60 * SECOND)


async def claim_one(lanes: DeliveryLanes, now: datetime = T0) -> Lane:
    (lane,) = await claim_all(lanes, now)
    return lane


async def users_waiting(lanes: DeliveryLanes, alias: str = "pay") -> list[str]:
    return [one.state_id.user_id for one in await lanes.list_waiting(alias, None, 100)]


async def test_a_mark_creates_a_lane_that_is_due(lanes: DeliveryLanes) -> None:
    lane_id = LaneId("pay", BOB)
    assert await lanes.get(lane_id) is None
    await lanes.mark([], T0)
    await lanes.mark([mark_of(3, BOB)], T0)
    lane = await lanes.get(lane_id)
    assert lane == Lane(id=lane_id, since=T0 - SECOND, newest=at(3), due_at=T0)
    assert await lanes.list_due("pay", T0 - SECOND, 10) == []
    assert await lanes.list_due("pay", T0, 10) == [lane_id]
    assert await lanes.list_due("pa", T0, 10) == await lanes.list_due("paym", T0, 10) == []


async def test_marks_of_one_batch_and_repeated_ones_are_one_lane(lanes: DeliveryLanes) -> None:
    marks = [mark_of(2), mark_of(1), mark_of(3), mark_of(1, alias="mail"), mark_of(1, BOB)]
    await asyncio.gather(*(lanes.mark(marks, T0) for _ in range(5)))
    found = await lanes.get(LaneId("pay", ADA))
    assert found is not None
    assert (found.newest, found.cursor, found.due_at) == (at(3), None, T0)
    assert await lanes.count_due("pay", 10) == 2
    assert await lanes.count_due("mail", 10) == 1
    await lanes.mark([structs.replace(mark_of(0), position=at(0, LATER_EPOCH), since=T0)], T0 + SECOND)
    after = await lanes.get(LaneId("pay", ADA))
    assert after is not None
    assert (after.newest, after.since, after.due_at) == (at(0, LATER_EPOCH), T0 - SECOND, T0)


async def test_the_newest_of_concurrent_marks_counts(lanes: DeliveryLanes) -> None:
    """Also while the lane is created by another one."""
    revisions = range(12)
    for n in range(10):
        state_id = StateId("loop", f"user-{n}")
        marks = [[mark_of((n + revision) % 12, state_id)] for revision in revisions]
        await asyncio.gather(*(lanes.mark(each, T0) for each in marks))
        lane = await lanes.get(LaneId("pay", state_id))
        assert lane is not None
        assert (lane.newest, lane.due_at) == (at(11), T0)


async def test_those_that_are_due_for_the_longest_time_are_first(lanes: DeliveryLanes) -> None:
    for n in (3, 1, 2):
        await lanes.mark([mark_of(1, StateId("loop", f"user-{n}"))], T0 + n * SECOND)
    due = await lanes.list_due("pay", T0 + 2 * SECOND, 10)
    assert [lane_id.state_id.user_id for lane_id in due] == ["user-1", "user-2"]
    assert await lanes.list_due("pay", T0 + 2 * SECOND, 1) == due[:1]
    assert await lanes.count_due("pay", 2) == 2


async def test_all_due_lanes_are_found_while_they_are_worked_off(lanes: DeliveryLanes) -> None:
    users = [f"user-{n:03}" for n in range(150)]
    await lanes.mark([mark_of(1, StateId("loop", user)) for user in users], T0)
    seen: list[str] = []
    while due := await lanes.list_due("pay", T0, 20):
        assert len(due) == min(20, len(users) - len(seen))
        claimed = await lanes.claim(due, new_id(), T0, UNTIL)
        seen += [lane.id.state_id.user_id for lane in claimed]
        await lanes.release([done(lane) for lane in claimed], T0)
    assert sorted(seen) == users
    await lanes.mark([mark_of(2, StateId("loop", "user-000"))], T0 + SECOND)
    assert len(await lanes.list_due("pay", T0 + SECOND, 20)) == 1


async def test_a_claim_excludes_others_until_it_ends(lanes: DeliveryLanes) -> None:
    await lanes.mark([mark_of(1)], T0)
    lane_id = LaneId("pay", ADA)
    (first,) = await lanes.claim([lane_id], "one", T0, UNTIL)
    assert (first.holder, first.due_at) == ("one", UNTIL)
    assert await lanes.get(lane_id) == first
    assert await lanes.list_due("pay", T0, 10) == []
    assert await lanes.claim([lane_id], "two", UNTIL - SECOND, UNTIL) == []
    assert await lanes.list_due("pay", UNTIL, 10) == [lane_id]
    assert len(await lanes.claim([lane_id, LaneId("pay", BOB)], "two", UNTIL, UNTIL + 60 * SECOND)) == 1
    assert await lanes.claim([], "three", UNTIL, UNTIL) == []


async def test_claimers_never_share_a_lane(lanes: DeliveryLanes) -> None:
    """Also not a lane that is marked at the same time."""
    states = [StateId("loop", f"user-{n}") for n in range(40)]
    marks = [mark_of(1, state_id) for state_id in states]
    await lanes.mark(marks, T0)
    ids = [LaneId("pay", state_id) for state_id in states]

    async def claim(holder: str) -> list[Lane]:
        mine = [*ids[len(holder) :], *ids[: len(holder)]]
        return [
            lane for part in (mine[:15], mine[15:]) for lane in await lanes.claim(part, holder, T0, UNTIL)
        ]

    async def mark(revision: int) -> None:
        await lanes.mark([mark_of(revision, state_id) for state_id in states], T0)

    holders = ["a" * n for n in range(1, 7)]
    claims, _ = await asyncio.gather(
        asyncio.gather(*map(claim, holders)), asyncio.gather(*map(mark, range(2, 6)))
    )
    claimed = [lane.id for each in claims for lane in each]
    assert sorted(claimed) == sorted(ids)
    for holder, each in zip(holders, claims, strict=True):
        assert {lane.holder for lane in each} <= {holder}
    for lane_id in ids:
        lane = await lanes.get(lane_id)
        assert lane is not None
        assert (lane.newest, lane.due_at) == (at(5), UNTIL)


async def test_a_released_lane_is_idle(lanes: DeliveryLanes) -> None:
    await lanes.mark([mark_of(1)], T0)
    lane = await claim_one(lanes)
    await lanes.release([], T0)
    await lanes.release([done(lane)], T0)
    assert await lanes.get(lane.id) == structs.replace(lane, cursor=at(1), holder="", due_at=None)
    assert await lanes.list_due("pay", UNTIL, 10) == []
    assert await lanes.count_due("pay", 10) == 0
    await lanes.mark([mark_of(1)], T0)  # again, as its worker has died before the record left the outbox
    assert await lanes.count_due("pay", 10) == 0
    await lanes.mark([mark_of(2)], T0 + SECOND)
    assert await lanes.list_due("pay", T0 + SECOND, 10) == [lane.id]


async def test_a_mark_during_a_claim_is_not_lost(lanes: DeliveryLanes) -> None:
    await lanes.mark([mark_of(1)], T0)
    lane = await claim_one(lanes)
    await lanes.mark([mark_of(2)], T0)
    assert await lanes.list_due("pay", T0, 10) == []
    await lanes.release([done(lane)], T0 + SECOND)
    found = await lanes.get(lane.id)
    assert found is not None
    assert (found.cursor, found.newest, found.due_at, found.holder) == (at(1), at(2), T0 + SECOND, "")


async def test_marks_beside_claims_and_releases_are_all_delivered(lanes: DeliveryLanes) -> None:
    last = 25
    marked = asyncio.Event()

    async def mark() -> None:
        for revision in range(1, last + 1):
            await lanes.mark([mark_of(revision)], T0)
        marked.set()

    async def work() -> None:
        while True:
            was_marked = marked.is_set()
            claimed = await lanes.claim([LaneId("pay", ADA)], new_id(), T0, UNTIL)
            await lanes.release([done(lane) for lane in claimed], T0)
            if was_marked and not claimed:
                return

    async with asyncio.timeout(30):
        await asyncio.gather(mark(), work())
    lane = await lanes.get(LaneId("pay", ADA))
    assert lane is not None
    assert (lane.cursor, lane.newest, lane.due_at, lane.holder) == (at(last), at(last), None, "")


async def test_the_result_of_a_claim_that_has_passed_changes_nothing(lanes: DeliveryLanes) -> None:
    await lanes.mark([mark_of(1)], T0)
    stalled = await claim_one(lanes)
    mine = await claim_one(lanes, UNTIL)
    await lanes.release([done(stalled)], UNTIL)
    assert await lanes.get(mine.id) == mine
    await lanes.release([failed(mine, UNTIL + SECOND)], UNTIL)
    await lanes.release([done(stalled)], UNTIL)
    found = await lanes.get(mine.id)
    assert found is not None
    assert (found.cursor, found.failures, found.due_at) == (None, 1, UNTIL + SECOND)


async def test_the_result_of_an_ended_claim_counts_if_nobody_else_has_the_lane(lanes: DeliveryLanes) -> None:
    await lanes.mark([mark_of(1)], T0)
    late = await claim_one(lanes)
    await lanes.release([done(late)], UNTIL + SECOND)
    assert await lanes.list_due("pay", UNTIL + SECOND, 10) == []


async def test_a_failed_lane_backs_off_with_its_attempts(lanes: DeliveryLanes) -> None:
    await lanes.mark([mark_of(1), mark_of(1, BOB)], T0)
    claimed = {lane.id.state_id: lane for lane in await claim_all(lanes)}
    await lanes.release([failed(claimed[ADA], T0 + 5 * SECOND), done(claimed[BOB])], T0)
    await lanes.mark([mark_of(2)], T0 + SECOND)
    assert await lanes.list_due("pay", T0 + 4 * SECOND, 10) == []
    found = await lanes.get(LaneId("pay", ADA))
    assert found is not None
    assert (found.failures, found.attempts, found.newest) == (1, (FAILED,), at(2))
    assert (await lanes.list_failing("pay", None, 10)).items == [found]
    assert (await lanes.list_failing("mail", None, 10)).items == []
    again = await claim_one(lanes, T0 + 5 * SECOND)
    assert again.attempts == (FAILED,)
    await lanes.release([done(again)], T0 + 6 * SECOND)
    assert (await lanes.list_failing("pay", None, 10)).items == []
    found = await lanes.get(LaneId("pay", ADA))
    assert found is not None
    assert (found.failures, found.attempts) == (0, ())


async def test_the_return_of_an_integration_ends_all_back_offs(lanes: DeliveryLanes) -> None:
    await lanes.mark([mark_of(1, StateId("loop", user)) for user in ("claimed", "failed", "idle")], T0)
    await lanes.mark([mark_of(1, ADA, alias="mail")], T0)
    claimed = {lane.id.state_id.user_id: lane for lane in await claim_all(lanes)}
    (mail,) = await claim_all(lanes, alias="mail")
    hour = T0 + timedelta(hours=1)
    await lanes.release([failed(claimed["failed"], hour), done(claimed["idle"]), failed(mail, hour)], T0)
    await lanes.make_due("pay", T0 + SECOND)
    assert await lanes.list_due("pay", T0 + SECOND, 10) == [claimed["failed"].id]
    assert await lanes.get(claimed["claimed"].id) == claimed["claimed"]
    assert await lanes.list_due("mail", T0 + SECOND, 10) == []
    found = await lanes.get(claimed["failed"].id)
    assert found is not None
    assert found.failures == 1


async def test_a_job_is_a_lane_of_its_own_that_ends(lanes: DeliveryLanes) -> None:
    await lanes.mark([mark_of(1)], T0)
    job = Lane(
        id=LaneId("pay", ADA, "job-1"),
        since=T0,
        newest=at(9),
        cursor=at(2),
        end=at(9),
        letter="evt_1",
        due_at=T0,
    )
    await lanes.add_jobs([])
    await lanes.add_jobs([job])
    await lanes.add_jobs(
        [structs.replace(job, cursor=at(5)), structs.replace(job, id=LaneId("pay", BOB, "j"))]
    )
    assert await lanes.get(job.id) == job
    claimed = {lane.id: lane for lane in await claim_all(lanes)}
    assert len(claimed) == 3
    assert [lane.id for lane in (await lanes.list_lanes("pay", None, 10)).items] == [LaneId("pay", ADA)]
    stale = structs.replace(claimed[job.id], holder="another")
    await lanes.release([done(stale)], T0)
    assert await lanes.get(job.id) is not None
    await lanes.release([failed(claimed[job.id], UNTIL)], T0)
    again = await lanes.claim([job.id], new_id(), UNTIL, UNTIL)
    await lanes.release([done(again[0]), done(claimed[LaneId("pay", ADA)])], UNTIL)
    assert await lanes.get(job.id) is None
    assert await lanes.get(LaneId("pay", ADA)) is not None
    assert await lanes.get(LaneId("pay", BOB, "j")) is not None


async def test_lists_are_read_in_pages(lanes: DeliveryLanes) -> None:
    users = [f"user-{n:02}" for n in range(25)]
    await lanes.mark([mark_of(1, StateId("loop", user)) for user in users], T0)
    await lanes.mark([mark_of(1, alias="mail"), mark_of(1, alias="a")], T0)
    claimed = await claim_all(lanes)
    await lanes.release([failed(lane, UNTIL) for lane in claimed], T0)
    for read in (lanes.list_lanes, lanes.list_failing):
        found: list[str] = []
        after: str | None = None
        while True:
            page = await read("pay", after, 10)
            found += [lane.id.state_id.user_id for lane in page.items]
            if page.next is None:
                break
            after = page.next
        assert found == users
        assert (await read("pay", "a", 1)).items[0].id.alias == "pay"
        assert (await read("pay", "q", 1)).items == []


async def test_waiting_states_are_listed_oldest_first(lanes: DeliveryLanes) -> None:
    for user, minutes in (("new", 3), ("old", 1), ("middle", 2)):
        since = T0 + timedelta(minutes=minutes)
        await lanes.mark([mark_of(1, StateId("loop", user), waits_since=since)], T0)
    await lanes.mark([mark_of(1, BOB), mark_of(1, ADA, alias="mail", waits_since=T0)], T0)
    assert await users_waiting(lanes) == ["old", "middle", "new"]
    first = await lanes.list_waiting("pay", None, 1)
    assert [(one.state_id, one.since) for one in first] == [(StateId("loop", "old"), T0 + 60 * SECOND)]
    rest = await lanes.list_waiting("pay", first[0].place, 10)
    assert [one.state_id.user_id for one in rest] == ["middle", "new"]
    assert await lanes.list_waiting("pay", rest[-1].place, 10) == []
    assert await lanes.list_waiting("pay", (await lanes.list_waiting("mail", None, 1))[0].place, 10) == [
        *first,
        *rest,
    ]


async def test_the_newest_mark_decides_whether_a_state_waits(lanes: DeliveryLanes) -> None:
    await lanes.mark([mark_of(2, waits_since=T0)], T0)
    await lanes.mark([mark_of(1)], T0)
    assert await users_waiting(lanes) == ["ada"]
    await lanes.mark([mark_of(3)], T0)
    await lanes.mark([mark_of(2, waits_since=T0)], T0)
    assert await users_waiting(lanes) == []
    await lanes.mark([mark_of(5), mark_of(4, waits_since=T0)], T0)
    assert await users_waiting(lanes) == []
    claimed = await claim_one(lanes)
    await lanes.mark([mark_of(6, waits_since=T0)], T0)
    await lanes.release([done(claimed)], T0)
    assert await users_waiting(lanes) == ["ada"]


async def test_a_state_that_waits_anew_is_not_removed_from_the_list(lanes: DeliveryLanes) -> None:
    await lanes.mark([mark_of(1, waits_since=T0), mark_of(1, BOB, waits_since=T0)], T0)
    seen = await lanes.list_waiting("pay", None, 10)
    await lanes.mark([mark_of(2, waits_since=T0 + SECOND)], T0)
    await lanes.end_waiting("pay", [])
    await lanes.end_waiting("mail", seen)
    await lanes.end_waiting("pay", seen)
    place = (await lanes.list_waiting("pay", None, 10))[0].place
    assert await lanes.list_waiting("pay", None, 10) == [WaitingState(ADA, T0 + SECOND, place)]


async def test_lanes_end_with_their_integration_and_with_their_state(lanes: DeliveryLanes) -> None:
    await lanes.mark([mark_of(1, waits_since=T0), mark_of(1, BOB), mark_of(1, alias="mail")], T0)
    job = Lane(id=LaneId("mail", BOB, "job-1"), since=T0, newest=at(1), due_at=T0)
    await lanes.add_jobs([job])
    assert await lanes.delete_of_state(BOB) == 2
    assert await lanes.delete_of_integration("pay") == 1
    assert await lanes.delete_of_integration("pay") == 0
    assert await lanes.list_due("pay", T0, 10) == []
    assert await users_waiting(lanes) == []
    assert await lanes.list_due("mail", T0, 10) == [LaneId("mail", ADA)]


async def test_a_state_that_goes_on_waiting_retains_the_time(lanes: DeliveryLanes) -> None:
    async def waits_since() -> datetime | None:
        found = await lanes.list_waiting("pay", None, 10)
        return found[0].since if found else None

    def stays(revision: int) -> Mark:
        return structs.replace(mark_of(revision, waits_since=T0 + revision * SECOND), stays=True)

    await lanes.mark([stays(1)], T0)
    assert await waits_since() == T0 + SECOND, "nothing was noted before"
    await lanes.mark([stays(2)], T0)
    assert await waits_since() == T0 + SECOND
    await lanes.mark([mark_of(3, waits_since=T0 + 3 * SECOND)], T0)
    await lanes.mark([stays(2)], T0)
    assert await waits_since() == T0 + 3 * SECOND
    await lanes.mark([structs.replace(mark_of(4), stays=True)], T0)
    assert await waits_since() is None
    await lanes.mark([stays(5)], T0)
    assert await waits_since() == T0 + 5 * SECOND
    await lanes.mark([stays(7), mark_of(6, waits_since=T0)], T0)
    assert await waits_since() == T0
    await lanes.mark([stays(9), mark_of(8)], T0)
    assert await waits_since() == T0 + 9 * SECOND
