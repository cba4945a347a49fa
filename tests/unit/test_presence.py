"""Presence on states, over several workers on one bus."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime

import pytest

from app.contracts.errors import BusUnavailableError
from app.contracts.events import EVERYONE, Event, Gap, PresentClient, Topic, flow_topic, user_topic
from app.contracts.state import StateId
from app.services.live.presence import Presence

ADA = StateId("f", "ada")


def _states_of(user: str | None) -> StateId | str:
    return "f" if user is None else StateId("f", user)


class Network:
    """Brings events to all workers whose bus is connected."""

    def __init__(self) -> None:
        self.buses: list[Bus] = []


class Bus:
    """One worker's, with topics of its own."""

    def __init__(self, network: Network, worker: str) -> None:
        self.worker = worker
        self.network = network
        self.topics = {EVERYONE}
        self.connected = True
        self.handlers: list[Callable[[Topic, Event], None]] = []
        self.gap_handlers: list[Callable[[Gap], None]] = []
        self.worker_lost_handlers: list[Callable[[str], None]] = []
        network.buses.append(self)

    async def publish(self, events: Sequence[Event]) -> int:
        if not self.connected:
            raise BusUnavailableError
        counts = []
        for event in events:
            for topic in event.topics:
                receivers = [b for b in self.network.buses if b.connected and topic in b.topics]
                if topic == event.topics[0]:
                    counts.append(len(receivers))
                for bus in receivers:
                    for handler in bus.handlers:
                        handler(topic, event)
        return min(counts, default=0)

    def subscribe(self, handler: Callable[[Topic, Event], None]) -> None:
        self.handlers.append(handler)

    def on_gap(self, handler: Callable[[Gap], None]) -> None:
        self.gap_handlers.append(handler)

    def on_worker_lost(self, handler: Callable[[str], None]) -> None:
        self.worker_lost_handlers.append(handler)


class Worker:
    def __init__(self, network: Network, name: str, *topics: Topic) -> None:
        self.bus = Bus(network, name)
        self.bus.topics |= set(topics)
        self.presence = Presence(self.bus, lambda topic: topic in self.bus.topics)  # type: ignore[arg-type]
        self.changes: asyncio.Queue[StateId] = asyncio.Queue()
        self.presence.on_change(self.changes.put_nowait)
        self.task = asyncio.create_task(self.presence.run())

    async def names(self, user: str | None = "ada") -> list[str]:
        return [c.client_id for c in await self.presence.clients_on(_states_of(user))]

    async def until(self, *names: str, user: str | None = "ada") -> None:
        async with asyncio.timeout(5):
            while sorted(c.client_id for c in self.presence.known_on(_states_of(user))) != sorted(names):
                await self.changes.get()


Make = Callable[..., Worker]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    network, workers = Network(), []

    def worker(name: str, *topics: Topic) -> Worker:
        workers.append(Worker(network, name, *topics))
        return workers[-1]

    yield worker
    for each in workers:
        each.task.cancel()


def client(name: str, user: str = "ada") -> PresentClient:
    return PresentClient(client_id=name, user_id=user, since=name, device="phone")


async def test_clients_on_all_workers_are_there_until_they_leave(make: Make) -> None:
    one, two = make("one", user_topic("ada")), make("two", user_topic("ada"))
    one.presence.enter(ADA, client("a"))
    two.presence.enter(ADA, client("b"))
    two.presence.enter(StateId("other", "ada"), client("c"))
    assert await one.names() == await two.names() == ["a", "b"]
    two.presence.leave(ADA, client("b"))
    await one.until("a")
    two.presence.leave(ADA, client("b"))
    one.presence.leave(ADA, client("a"))
    await two.until()
    assert await one.names("bob") == []


async def test_who_comes_later_is_reported_who_is_there(make: Make) -> None:
    one = make("one", user_topic("ada"))
    one.presence.enter(ADA, client("a"))
    await asyncio.sleep(0)
    later = make("later", user_topic("ada"))
    assert await later.names() == ["a"]
    one.presence.enter(ADA, client("a2"))
    await later.until("a", "a2")


async def test_watchers_are_reported_of_all_users(make: Make) -> None:
    one, two = make("one", user_topic("ada")), make("two", user_topic("bob"))
    watcher = make("watcher", flow_topic("f"))
    one.presence.enter(ADA, client("a"))
    two.presence.enter(StateId("f", "bob"), client("b", "bob"))
    assert await watcher.names(None) == ["a", "b"]
    one.presence.leave(ADA, client("a"))
    await watcher.until("b", user=None)
    one.presence.enter(ADA, client("a2"))
    await watcher.until("a2", "b", user=None)
    watcher.bus.topics.discard(flow_topic("f"))
    watcher.presence.forget_topic(flow_topic("f"))
    assert watcher.presence.known_on("f") == []


async def test_the_clients_of_a_lost_worker_are_dropped(make: Make) -> None:
    one, two = make("one", user_topic("ada")), make("two", user_topic("ada"))
    one.presence.enter(ADA, client("a"))
    two.presence.enter(ADA, client("b"))
    assert await one.names() == ["a", "b"]
    for report_lost in one.bus.worker_lost_handlers:
        report_lost("two")
    await one.until("a")


async def test_after_a_gap_everybody_knows_again(make: Make) -> None:
    one, two = make("one", user_topic("ada")), make("two", user_topic("ada"))
    one.presence.enter(ADA, client("a"))
    two.presence.enter(ADA, client("b"))
    assert await one.names() == await two.names() == ["a", "b"]
    one.bus.connected = False
    one.presence.enter(ADA, client("a2"))
    two.presence.leave(ADA, client("b"))
    two.presence.enter(ADA, client("b2"))
    await two.until("a", "b2")
    await one.until("a", "a2", "b")
    one.bus.connected = True
    for missed in one.bus.gap_handlers:
        missed(Gap(datetime.now(UTC)))
    await two.until("a", "a2", "b2")
    await one.until("a", "a2", "b2")


async def test_a_worker_that_does_not_answer_is_not_waited_for_long(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.live.presence.MAX_ANSWER_SECONDS", 0.05)
    one, silent = make("one", user_topic("ada")), make("silent", user_topic("ada"))
    silent.task.cancel()
    one.presence.enter(ADA, client("a"))
    assert await one.names() == ["a"]
    one.bus.connected = False
    assert await one.names() == ["a"]


async def test_a_repeated_report_is_no_change(make: Make) -> None:
    one, two = make("one", user_topic("ada"), flow_topic("f")), make("two", user_topic("ada"))
    two.presence.enter(ADA, client("b"))
    await one.until("b")
    assert one.changes.empty(), "received by the topics of user and flow, it changed once"
    assert await one.names() == ["b"]
    assert await one.names(None) == ["b"]
    assert one.changes.empty()


async def test_more_clients_than_are_named_take_nobody_away(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.live.presence.MAX_CLIENTS", 2)
    one = make("one", user_topic("u3"), flow_topic("f"))
    many = make("many", *(user_topic(f"u{n}") for n in range(4)))
    for n in range(4):
        many.presence.enter(StateId("f", f"u{n}"), client(f"c{n}", f"u{n}"))
    await one.until("c3", user="u3")
    assert len(await one.names(None)) == 2
    assert [c.client_id for c in one.presence.known_on(StateId("f", "u3"))] == ["c3"]


async def test_a_report_has_the_clients_at_the_time_it_is_sent(make: Make) -> None:
    """A query, and then the client leaves, before the report is sent."""
    one, two = make("one", user_topic("ada")), make("two", user_topic("ada"))
    two.presence.enter(ADA, client("b"))
    asking = asyncio.create_task(one.names())
    await asyncio.sleep(0)
    two.presence.leave(ADA, client("b"))
    assert await asking == []
    assert one.presence.known_on(ADA) == []


async def test_a_worker_that_does_not_receive_the_query_has_no_clients(make: Make) -> None:
    one, two = make("one", user_topic("ada")), make("two", user_topic("ada"))
    two.presence.enter(ADA, client("b"))
    await one.until("b")
    two.bus.topics.discard(user_topic("ada"))  # its client left, and no report of that arrived
    assert await one.names() == []


async def test_a_report_of_one_user_changes_no_other(make: Make) -> None:
    one = make("one", user_topic("ada"), user_topic("bob"))
    two = make("two", user_topic("ada"), user_topic("bob"))
    two.presence.enter(ADA, client("a"))
    await one.until("a")
    two.presence.enter(StateId("f", "bob"), client("b", "bob"))
    await one.until("b", user="bob")
    assert [c.client_id for c in one.presence.known_on(ADA)] == ["a"]
