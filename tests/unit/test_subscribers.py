"""Subscribers receive every change once and in order, and missed changes later."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from msgspec import UNSET, Raw, json, structs

from app.contracts.commands import StartCommand
from app.contracts.errors import FlowStateCorruptionError, StoreUnavailableError
from app.contracts.events import (
    Event,
    Gap,
    PresenceReport,
    PresentClient,
    Resync,
    StateChanged,
    Topic,
    flow_topic,
    user_topic,
)
from app.contracts.positions import HeldPosition
from app.contracts.record import HistoryRecord
from app.contracts.results import CaughtUp
from app.contracts.state import FlowState, StateId
from app.services.live import subscribers
from app.services.live.catch_up import MAX_EVENTS, RECORDS_PER_READ
from app.services.live.subscribers import LiveEvent, LocalSubscribers
from tests.support.fakes import FakeBus
from tests.support.rig import Rig, rig


class Follower:
    """Records the events that it receives."""

    def __init__(self) -> None:
        self.received: list[LiveEvent] = []
        self._grown = asyncio.Event()

    def __call__(self, event: LiveEvent) -> None:
        self.received.append(event)
        self._grown.set()

    @property
    def positions(self) -> list[tuple[str, int]]:
        return [(event.flow_id, event.revision) for event in self.received if isinstance(event, StateChanged)]

    @property
    def resyncs(self) -> int:
        return sum(isinstance(event, Resync) for event in self.received)

    async def until(self, holds: Callable[["Follower"], bool]) -> None:
        async with asyncio.timeout(5):
            while not holds(self):
                self._grown.clear()
                await self._grown.wait()


def changed(revision: int, epoch: str = "e1", user: str = "ada", flow: str = "loop") -> StateChanged:
    return StateChanged(user_id=user, flow_id=flow, epoch=epoch, revision=revision, at=0, body=Raw(b"{}"))


def disconnect(r: Rig) -> Callable[[], None]:
    """Disconnect the worker; the returned function reconnects it and reports the gap."""
    handlers, r.bus.handlers = r.bus.handlers, []
    since = r.clock.now()

    def reconnect() -> None:
        r.bus.handlers = handlers
        for missed in r.bus.gap_handlers:
            missed(Gap(since))

    return reconnect


async def test_doubles_and_older_changes_are_no_news() -> None:
    r = await rig()
    follower = Follower()
    await r.service.subscribers.follow_user("ada", follower)
    events: list[Event] = [
        changed(0),
        changed(1),
        changed(1),
        changed(0),
        changed(5),
        changed(3),
        changed(0, "e2"),
        changed(9, "e1"),
        changed(0, flow="other"),
        changed(1, "e2"),
    ]
    await r.bus.publish(events)
    assert follower.positions == [
        ("loop", 0),
        ("loop", 1),
        ("loop", 5),
        ("loop", 0),
        ("other", 0),
        ("loop", 1),
    ]


async def test_who_leaves_is_reported_no_more() -> None:
    r = await rig()
    one, two = Follower(), Follower()
    first = await r.service.subscribers.follow_user("ada", one)
    second = await r.service.subscribers.follow_user("ada", two)
    await r.bus.publish([changed(0)])
    first.leave()
    first.leave()
    await r.bus.publish([changed(1)])
    assert (one.positions, two.positions) == ([("loop", 0)], [("loop", 0), ("loop", 1)])
    assert r.bus.followed[user_topic("ada")] == 1
    second.leave()
    assert r.bus.followed[user_topic("ada")] == 0
    assert r.service.subscribers.count(user_topic("ada")) == 0


async def test_who_cannot_join_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    r = await rig()

    follow = r.bus.follow

    async def cancelled(topic: Topic) -> None:
        await follow(topic)
        raise asyncio.CancelledError

    monkeypatch.setattr(r.bus, "follow", cancelled)
    with pytest.raises(asyncio.CancelledError):
        await r.service.subscribers.follow_user("ada", Follower())
    assert r.bus.followed[user_topic("ada")] == 0
    assert not r.service.subscribers.has_subscribers(user_topic("ada"))


async def test_what_was_missed_is_reported_in_order_after_what_was_reported() -> None:
    r = await rig()
    follower, stranger = Follower(), Follower()
    async with r.service as service:
        flows = service.as_trusted()
        await service.subscribers.follow_user("ada", follower)
        await service.subscribers.follow_user("bob", stranger)
        await flows.start_flow("ada", "loop")
        await follower.until(lambda f: len(f.positions) == 1)
        reconnect = disconnect(r)
        for _ in range(5):
            await flows.execute_transition("ada", "loop", "again")
        await service.background.relay.drain(5)
        assert len(follower.positions) == 1
        reconnect()
        await follower.until(lambda f: len(f.positions) == 6)
        assert follower.positions == [("loop", n) for n in range(6)]
        last = follower.received[-1]
        assert isinstance(last, StateChanged)
        body = json.decode(last.body)
        assert (body["transition"], body["fromStep"], body["revision"]) == ("again", "a", 5)
        assert [t["transition"] for t in body["transitions"]], "as in the live event"
        await flows.execute_transition("ada", "loop", "again")
        await follower.until(lambda f: len(f.positions) == 7)
        assert stranger.received == []
        assert follower.resyncs == 0


async def test_of_a_state_that_was_not_reported_before_the_newest_change_is_enough() -> None:
    r = await rig()
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("ada", "loop")
        await flows.execute_transition("ada", "loop", "again")
        await service.background.relay.drain(5)
        follower = Follower()
        await service.subscribers.follow_user("ada", follower)
        reconnect = disconnect(r)
        for _ in range(3):
            await flows.execute_transition("ada", "loop", "again")
        await service.background.relay.drain(5)
        reconnect()
        await follower.until(lambda f: f.positions == [("loop", 4)])


async def test_an_end_and_another_life_are_made_up_for() -> None:
    r = await rig()
    follower = Follower()
    async with r.service as service:
        flows = service.as_trusted()
        await service.subscribers.follow_user("ada", follower)
        first, _ = await flows.start_flow("ada", "loop")
        await follower.until(lambda f: len(f.positions) == 1)
        reconnect = disconnect(r)
        await flows.clear_flow_state("ada", "loop")
        await service.background.relay.drain(5)
        reconnect()
        await follower.until(lambda f: f.positions[1:] == [("loop", 1)])
        assert json.decode(follower.received[-1].body)["status"] == "cleared"  # type: ignore[union-attr]
        reconnect = disconnect(r)
        second, _ = await flows.start_flow("ada", "loop")
        await service.background.relay.drain(5)
        reconnect()
        await follower.until(lambda f: f.positions[2:] == [("loop", 0)])
        last = follower.received[-1]
        assert isinstance(last, StateChanged)
        assert (last.epoch, first.epoch < second.epoch) == (second.epoch, True)


async def test_a_later_epoch_is_made_up_for_from_its_first_revision() -> None:
    r = await rig()
    follower = Follower()
    async with r.service as service:
        flows = service.as_trusted()
        await service.subscribers.follow_user("ada", follower)
        await flows.start_flow("ada", "loop")
        await flows.clear_flow_state("ada", "loop")
        await follower.until(lambda f: len(f.positions) == 2)
        reconnect = disconnect(r)
        await flows.start_flow("ada", "loop")
        for _ in range(3):
            await flows.execute_transition("ada", "loop", "again")
        await service.background.relay.drain(5)
        reconnect()
        await follower.until(lambda f: f.positions[2:] == [("loop", n) for n in range(4)])


async def test_more_than_can_be_reported_is_the_newest_change() -> None:
    r = await rig()
    follower = Follower()
    async with r.service as service:
        flows = service.as_trusted()
        await service.subscribers.follow_user("ada", follower)
        await flows.start_flow("ada", "loop")
        await follower.until(lambda f: len(f.positions) == 1)
        reconnect = disconnect(r)
        for _ in range(MAX_EVENTS + 1):
            await flows.execute_transition("ada", "loop", "again")
        await service.background.relay.drain(5)
        reconnect()
        await follower.until(lambda f: f.positions[1:] == [("loop", MAX_EVENTS + 1)])


async def test_a_gap_of_others_concerns_nobody_here() -> None:
    r = await rig()
    ada, bob = Follower(), Follower()
    async with r.service as service:
        flows = service.as_trusted()
        await service.subscribers.follow_user("ada", ada)
        await service.subscribers.follow_user("bob", bob)
        reconnect = disconnect(r)
        for user in ("ada", "bob"):
            await flows.start_flow(user, "loop")
        await service.background.relay.drain(5)
        r.bus.gap_handlers, handlers = [], r.bus.gap_handlers
        reconnect()
        for missed in handlers:
            missed(Gap(r.clock.now(), frozenset({user_topic("bob")})))
        await bob.until(lambda f: f.positions == [("loop", 0)])
        assert ada.received == []
        for missed in handlers:
            missed(Gap(r.clock.now(), frozenset({user_topic("ada")})))
        await ada.until(lambda f: f.positions == [("loop", 0)])


async def test_while_the_store_is_away_a_gap_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscribers, "RETRY_DELAYS_SECONDS", (0.01, 0.02))
    r = await rig()
    follower = Follower()
    failures = iter([StoreUnavailableError(), StoreUnavailableError()])
    asked = r.states.changed_since

    async def failing(*arguments: object) -> list[FlowState]:
        for failure in failures:
            raise failure
        return await asked(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(r.states, "changed_since", failing)
    async with r.service as service:
        flows = service.as_trusted()
        await service.subscribers.follow_user("ada", follower)
        reconnect = disconnect(r)
        await flows.start_flow("ada", "loop")
        await service.background.relay.drain(5)
        reconnect()
        await follower.until(lambda f: f.positions == [("loop", 0)])
        assert follower.resyncs == 0


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(
            FlowStateCorruptionError("ada", "loop", "odd"),
            marks=pytest.mark.expected_logs("missed changes of a state not read"),
        ),
        pytest.param(RuntimeError("a bug"), marks=pytest.mark.expected_logs("gap repair failed")),
    ],
)
async def test_who_cannot_be_reported_what_it_missed_is_reported_so(failure: Exception) -> None:
    r = await rig()
    follower, watcher = Follower(), Follower()

    class Failing:
        async def since(self, *_: object) -> CaughtUp:
            raise failure

    subscribers = LocalSubscribers(FakeBus(), r.states, Failing())  # type: ignore[arg-type]
    await subscribers.follow_user("ada", follower)
    await subscribers.watch_flow("loop", watcher)
    await r.flows.start_flow("ada", "loop")
    run = asyncio.create_task(subscribers.run())
    subscribers._gaps.put_nowait(Gap(r.clock.now()))
    await follower.until(lambda f: f.resyncs > 0)
    await watcher.until(lambda f: f.resyncs > 0)
    subscribers._gaps.put_nowait(Gap(r.clock.now(), frozenset({flow_topic("loop")})))
    before = watcher.resyncs
    await watcher.until(lambda f: f.resyncs > before)
    assert not run.done(), "the next gap is made up for"
    run.cancel()


async def test_catching_up_claims_continuity_only_where_every_record_is_there() -> None:
    r = await rig()
    async with r.service as service:
        flows = service.as_trusted()
        state, _ = await flows.start_flow("ada", "loop")
        for _ in range(4):
            await flows.execute_transition("ada", "loop", "again")
        await service.background.relay.drain(5)
        at = HeldPosition(state.epoch, 1)
        whole = await flows.get_flow_events("ada", "loop", at)
        assert (whole.complete, [e.revision for e in whole.events]) == (True, [2, 3, 4])
        lost = r.history.records.pop(f"loop:ada:{state.epoch}:3")
        broken = await flows.get_flow_events("ada", "loop", at)
        assert (broken.complete, broken.events) == (False, ())
        assert broken.state is not None
        assert broken.state.revision == 4
        r.history.records[lost.id] = structs.replace(lost, after=UNSET)
        assert not (await flows.get_flow_events("ada", "loop", at)).complete, "it leads to no state"
        r.history.records[lost.id] = lost
        level = await flows.get_flow_events("ada", "loop", HeldPosition(state.epoch, 4))
        assert (level.complete, level.events) == (True, ())


async def test_who_knew_of_no_state_gets_the_present_one_from_its_first_revision() -> None:
    r = await rig()
    async with r.service as service:
        flows = service.as_trusted()
        nothing = HeldPosition(from_start=True)
        assert await flows.get_flow_events("ada", "loop", nothing) == CaughtUp(None)
        first, _ = await flows.start_flow("ada", "loop")
        await flows.clear_flow_state("ada", "loop")
        assert await flows.get_flow_events("ada", "loop", nothing) == CaughtUp(None), "it had ended"
        second, _ = await flows.start_flow("ada", "loop")
        await flows.execute_transition("ada", "loop", "again")
        for held in (nothing, HeldPosition(first.epoch, 1, from_start=True)):
            found = await flows.get_flow_events("ada", "loop", held)
            assert found.complete
            assert [(e.epoch, e.revision) for e in found.events] == [(second.epoch, 0), (second.epoch, 1)]
        assert not (await flows.get_flow_events("ada", "loop", HeldPosition(first.epoch, 1))).complete
        own = HeldPosition(second.epoch, 0, from_start=True)
        found = await flows.get_flow_events("ada", "loop", own)
        assert [e.revision for e in found.events] == [1], "changes before the position are not sent again"
        for _ in range(MAX_EVENTS):
            await flows.execute_transition("ada", "loop", "again")
        assert not (await flows.get_flow_events("ada", "loop", nothing)).complete


async def test_a_state_past_its_time_is_no_continuation() -> None:
    r = await rig(state_ttl=timedelta(hours=1))
    async with r.service as service:
        flows = service.as_trusted()
        state, _ = await flows.start_flow("ada", "loop")
        r.clock.advance(hours=2)
        found = await flows.get_flow_events("ada", "loop", HeldPosition(state.epoch, 0))
        assert (found.state, found.complete) == (None, False)
        await service.purge_expired_flows()
        ended = await flows.get_flow_events("ada", "loop", HeldPosition(state.epoch, 0))
        assert (ended.state, ended.complete, [e.revision for e in ended.events]) == (None, True, [1])


async def test_catching_up_reads_no_further_than_it_may_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    r = await rig()
    monkeypatch.setattr("app.services.live.catch_up.MAX_REPLAY_BYTES", 20_000)
    asked: list[int] = []
    get_many = r.history.get_many

    async def counting(record_ids: Sequence[str]) -> list[HistoryRecord]:
        asked.append(len(record_ids))
        return await get_many(record_ids)

    monkeypatch.setattr(r.history, "get_many", counting)
    async with r.service as service:
        flows = service.as_trusted()
        state, _ = await flows.start_flow("ada", "loop", StartCommand(payload={"a": "x" * 1000}))
        for _ in range(MAX_EVENTS):
            await flows.execute_transition("ada", "loop", "again")
        await service.background.relay.drain(5)
        found = await flows.get_flow_events("ada", "loop", HeldPosition(state.epoch, 0))
    assert (found.complete, found.events) == (False, ())
    assert asked == [RECORDS_PER_READ]


async def test_presence_of_a_user_is_forgotten_when_nobody_follows_it_here() -> None:
    r = await rig()
    presence = r.service.presence
    membership = await r.service.subscribers.follow_user("ada", Follower())
    there = (PresentClient(client_id="c", user_id="ada", since="s"),)
    await r.bus.publish([PresenceReport("another worker", "loop", "ada", there)])
    assert presence.known_on(StateId("loop", "ada")) == [*there]
    membership.leave()
    assert presence.known_on(StateId("loop", "ada")) == []
    assert presence._others == {"another worker": {}}


def test_gaps_join_to_one_that_concerns_both() -> None:
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    ada, bob = frozenset({user_topic("ada")}), frozenset({user_topic("bob")})
    assert Gap(late, ada).joined(Gap(early, bob)) == Gap(early, ada | bob)
    assert Gap(early, ada).joined(Gap(late)) == Gap(early)
