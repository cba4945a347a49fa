"""The event bus on Redis: rejected messages, reported gaps, and every kind of Redis."""

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from redis.asyncio import Redis
from redis.crc import key_slot

from app.contracts.errors import BusUnavailableError
from app.contracts.events import (
    EVERYONE,
    DefinitionChanged,
    Event,
    Gap,
    PresenceQuery,
    StateChanged,
    Topic,
    flow_topic,
    user_topic,
)
from app.kit import tasks as tasks_module
from app.kit.tasks import end_tasks
from config.settings import Settings
from realtime.redis import bus as bus_module
from realtime.redis import peers as peers_module
from realtime.redis.bus import RedisBus
from realtime.redis.envelope import EnvelopeWriter
from tests.support.faults import CuttableProxy, RedisServer
from tests.support.redis_kinds import RedisCluster, Replica, SentinelServer, TlsProxy
from tests.support.redis_tap import Tap
from tests.support.waiting import until

KEY = bytes(range(32))


def changed(user: str, revision: int = 0, flow: str = "f") -> StateChanged:
    return StateChanged(
        user_id=user, flow_id=flow, epoch="e", revision=revision, at=1_700_000_000_000, body=Raw(b"{}")
    )


class Worker:
    """A bus that records what it receives."""

    def __init__(self, url: str, namespace: str) -> None:
        self.bus = RedisBus(url, namespace)
        self.received: list[tuple[Topic, Event]] = []
        self.gaps: list[Gap] = []
        self.lost: list[str] = []
        self._grown = asyncio.Event()
        self.bus.subscribe(lambda topic, event: self._record(self.received, (topic, event)))
        self.bus.on_gap(lambda gap: self._record(self.gaps, gap))
        self.bus.on_worker_lost(lambda worker: self._record(self.lost, worker))

    def _record(self, entries: list[Any], entry: object) -> None:
        entries.append(entry)
        self._grown.set()

    @property
    def revisions(self) -> list[int]:
        return [event.revision for _, event in self.received if isinstance(event, StateChanged)]

    async def until(self, holds: Callable[["Worker"], bool], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not holds(self):
                self._grown.clear()
                await self._grown.wait()


Start = Callable[..., "asyncio.Future[Worker]"]


@pytest.fixture
async def start() -> AsyncIterator[Callable[[str], object]]:
    """Starts workers that share a namespace and a key."""
    namespace = f"test_{uuid.uuid4().hex}"
    workers: list[Worker] = []

    async def make(url: str) -> Worker:
        worker = Worker(url, namespace)
        await worker.bus.start(KEY)
        workers.append(worker)
        return worker

    yield make
    for worker in workers:
        await worker.bus.stop()


@pytest.fixture
def url(servers: Settings) -> str:
    assert servers.redis_url is not None
    return servers.redis_url.get_secret_value()


async def test_a_worker_receives_the_topics_that_it_follows_and_no_others(start: Start, url: str) -> None:
    one, two = await start(url), await start(url)
    await one.bus.follow(user_topic("ada"))
    await two.bus.follow(flow_topic("g"))
    await one.bus.publish(
        [changed("ada", 0), changed("ada", 1, "g"), changed("bob", 2, "g"), changed("bob", 3)]
    )
    await two.bus.publish([changed("ada", 4, "g")])
    await one.until(lambda w: 4 in w.revisions)
    await two.until(lambda w: 4 in w.revisions)
    assert one.revisions == [0, 1, 4]
    assert two.revisions == [1, 2, 4]
    assert one.gaps == two.gaps == []


@pytest.mark.expected_logs("message rejected")
async def test_forged_duplicate_and_late_messages_are_rejected(start: Start, url: str) -> None:
    one, two = await start(url), await start(url)
    await two.bus.follow(user_topic("ada"))
    channel = two.bus._channel(user_topic("ada"))
    async with Tap(url, channel) as tap:
        genuine = []
        for revision in range(4):
            await one.bus.publish([changed("ada", revision)])
            genuine.append(await tap.next())
        last, stranger = genuine[3], str(uuid.uuid4())
        forged = EnvelopeWriter(b"another key", one.bus.worker).write(channel, [changed("ada", 99)])
        elsewhere = EnvelopeWriter(KEY, stranger).write("another channel", [changed("ada", 98)])
        renumbered = last[:24] + bytes([last[24] + 1]) + last[25:]
        bad = [b"", b"x", b"\0" * 64, bytes(16) + last[16:], renumbered, last[:-1], last[:-1] + b"x"]
        for message in (*genuine[::-1], *genuine, forged, elsewhere, *bad):
            await tap.send(message)
        await one.bus.publish([changed("ada", 4)])
        await two.until(lambda w: 4 in w.revisions)
    assert two.revisions == [0, 1, 2, 3, 4]
    assert two.gaps == []


async def test_a_bus_starts_once_as_its_numbers_begin_again(start: Start, url: str) -> None:
    worker = await start(url)
    with pytest.raises(RuntimeError, match="nonces"):
        await worker.bus.start(KEY)


async def test_the_workers_are_counted(start: Start, url: str) -> None:
    one = await start(url)
    assert one.bus.worker_count == 1
    two = await start(url)
    await two.bus.publish([DefinitionChanged(flow_id="f")])
    await one.until(lambda w: len(w.received) == 1)
    assert one.bus.worker_count == 2
    await two.bus.stop()
    await one.until(lambda w: w.lost == [two.bus.worker])
    assert one.bus.worker_count == 1


async def test_a_message_that_is_lost_is_noticed(start: Start, url: str) -> None:
    one, two = await start(url), await start(url)
    for user in ("ada", "eve"):
        await two.bus.follow(user_topic(user))
    await one.bus.publish([changed("ada", 0)])
    await two.until(lambda w: w.revisions == [0])
    channel = two.bus._channel(user_topic("ada"))
    one.bus._sender._writer.write(channel, [changed("ada", 1)])
    one.bus._sender._writer.record_sent(channel)  # and it is lost on its way
    await one.bus.publish([changed("ada", 2)])
    await two.until(lambda w: len(w.gaps) == 1)
    (gap,) = two.gaps
    assert gap.concerns(user_topic("ada"))
    assert not gap.concerns(user_topic("eve"))
    assert not gap.concerns(EVERYONE)
    assert two.revisions == [0, 2]


@pytest.mark.expected_logs("redis connection lost")
async def test_a_change_that_could_not_be_sent_is_reported_as_a_gap_later(
    start: Start, tmp_path: Path
) -> None:
    server = RedisServer()
    proxy = await CuttableProxy(server.port).mend()
    one, two = await start(f"redis://127.0.0.1:{proxy.port}"), await start(server.url)
    await two.bus.follow(user_topic("ada"))
    await one.bus.follow(user_topic("ada"))
    await proxy.cut()
    with pytest.raises(BusUnavailableError):
        await one.bus.publish([changed("ada", 0)])
    assert one.revisions == [0], "its own clients receive it without Redis"
    await proxy.mend()
    await two.until(lambda w: any(gap.concerns(user_topic("ada")) for gap in w.gaps))
    assert two.gaps[0].since.timestamp() * 1000 < changed("ada").at, "since the time of the change"
    await one.until(lambda w: any(gap.topics is None for gap in w.gaps))
    await one.bus.publish([changed("ada", 1)])  # after whatever was under way
    assert one.bus._sender.unreported_losses == []
    await proxy.cut()
    server.kill()


@pytest.mark.expected_logs("redis connection lost", optional=True)
async def test_losses_are_reported_before_a_worker_leaves(start: Start) -> None:
    server = RedisServer()
    proxy = await CuttableProxy(server.port).mend()
    one, two = await start(f"redis://127.0.0.1:{proxy.port}"), await start(server.url)
    await two.bus.follow(user_topic("ada"))
    await proxy.cut()
    with pytest.raises(BusUnavailableError):
        await one.bus.publish([changed("ada", 0)])
    await proxy.mend()
    await one.bus.stop()
    await two.until(lambda w: w.lost == [one.bus.worker])
    assert [gap.concerns(user_topic("ada")) for gap in two.gaps] == [True]
    await proxy.cut()
    server.kill()


@pytest.mark.expected_logs("redis connection lost")
async def test_a_disconnected_worker_does_not_wait_for_redis(start: Start) -> None:
    server = RedisServer()
    worker = await start(server.url)
    await worker.bus.follow(user_topic("ada"))
    server.signal(signal.SIGSTOP)
    await until(lambda: not worker.bus.subscribed)
    began = time.monotonic()
    for revision in range(100):
        with pytest.raises(BusUnavailableError):
            await worker.bus.publish([changed("ada", revision)])
    assert time.monotonic() - began < 1, "not 2 seconds each"
    assert worker.revisions == list(range(100)), "its own clients receive them"
    assert worker.bus._channel(user_topic("ada")) in worker.bus._sender.unreported_losses
    server.signal(signal.SIGCONT)
    await until(lambda: worker.bus.subscribed and not worker.bus._sender.unreported_losses)
    server.kill()


@pytest.mark.expected_logs("redis connection lost", "subscription failed")
async def test_subscribers_that_wait_for_the_same_channel_fail_separately(start: Start) -> None:
    """Redis hangs while users of one shard connect: all are accepted, and notified of the gap later."""
    server = RedisServer()
    worker = await start(server.url)
    by_channel: dict[str, list[str]] = {}
    for n in range(2000):
        by_channel.setdefault(worker.bus._channel(user_topic(f"u{n}")), []).append(f"u{n}")
    same_channel = next(users for users in by_channel.values() if len(users) > 2)[:3]
    server.signal(signal.SIGSTOP)
    joins = []
    for user in same_channel:
        joins.append(asyncio.create_task(worker.bus.follow(user_topic(user))))
        await asyncio.sleep(0.3)  # the first one times out while the others still wait
    await asyncio.wait_for(asyncio.gather(*joins), 5)
    server.signal(signal.SIGCONT)
    await worker.until(lambda w: any(gap.topics is None for gap in w.gaps))
    await worker.bus.publish([changed(user, n) for n, user in enumerate(same_channel)])
    await worker.until(lambda w: w.revisions == [0, 1, 2])
    server.kill()


@pytest.mark.expected_logs("worker lost")
async def test_a_lost_worker_that_returns_is_a_gap(
    start: Start, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(bus_module, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(peers_module, "LOST_AFTER_SECONDS", 0.5)
    one, two = await start(url), await start(url)
    await one.bus.follow(user_topic("ada"))
    await until(lambda: bool(one.bus._peers.last_message_at))
    await end_tasks(two.bus._tasks[1:])  # no heartbeats, as if it were disconnected
    await one.until(lambda w: w.lost == [two.bus.worker])
    before = len(one.gaps)
    await two.bus.publish([changed("ada")])
    await one.until(lambda w: w.revisions == [0])
    assert [gap.topics for gap in one.gaps[before:]] == [None]
    assert list(one.bus._peers.last_message_at) == [two.bus.worker]


async def test_a_presence_query_reaches_all_workers_on_the_channel(start: Start, url: str) -> None:
    one, two = await start(url), await start(url)
    by_channel: dict[str, list[str]] = {}
    for n in range(2000):
        by_channel.setdefault(one.bus._channel(user_topic(f"u{n}")), []).append(f"u{n}")
    querying, another = next(users for users in by_channel.values() if len(users) > 1)[:2]
    await one.bus.follow(user_topic(querying))
    await two.bus.follow(user_topic(another))
    query = PresenceQuery("q", "f", querying)
    assert await one.bus.publish([query]) == 2
    for worker in (one, two):
        await worker.until(lambda w: any(event == query for _, event in w.received))


@pytest.mark.expected_logs("worker lost")
async def test_a_worker_that_stops_or_is_silent_is_lost(
    start: Start, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(bus_module, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(peers_module, "LOST_AFTER_SECONDS", 0.5)
    one, two, three = await start(url), await start(url), await start(url)
    await until(lambda: len(one.bus._peers.last_message_at) == 2)
    await two.bus.stop()
    await one.until(lambda w: w.lost == [two.bus.worker])
    assert one.gaps == [], "it announced its end, after all of its events"
    await end_tasks(three.bus._tasks)  # as if it were killed
    await one.until(lambda w: w.lost == [two.bus.worker, three.bus.worker])
    assert [gap.topics for gap in one.gaps] == [None], "its last commits may be unpublished"


async def test_a_worker_ends_also_as_it_sends(
    start: Start, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """The client of Redis swallows a cancellation that comes just as it has sent."""
    monkeypatch.setattr(bus_module, "HEARTBEAT_SECONDS", 0)
    for turns in range(50):
        worker = await start(url)
        for _ in range(turns % 10):
            await asyncio.sleep(0)
        async with asyncio.timeout(tasks_module.RECANCEL_AFTER_SECONDS - 1):  # at the first time
            await worker.bus.stop()


async def test_idle_channels_are_unsubscribed(
    start: Start, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(bus_module, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(bus_module, "IDLE_SECONDS", 0.1)
    worker = await start(url)
    topic = user_topic("ada")
    await worker.bus.follow(topic)
    worker.bus.unfollow(topic)
    redis = Redis.from_url(url)
    channel = worker.bus._channel(topic)
    async with asyncio.timeout(5):
        while (await redis.pubsub_numsub(channel))[0][1]:
            pass
    await worker.bus.follow(topic)
    await worker.bus.publish([changed("ada")])
    await worker.until(lambda w: w.revisions == [0])
    assert worker.bus.subscribed
    assert worker.gaps == []
    await redis.aclose()


@pytest.mark.expected_logs("redis connection lost")
@pytest.mark.timeout(120)
async def test_a_cluster(start: Start, tmp_path: Path) -> None:
    cluster = await RedisCluster(tmp_path).join()
    one, two = await start(cluster.url), await start(cluster.url)
    users = [f"u{n}" for n in range(40)]
    for user in users:
        await two.bus.follow(user_topic(user))
    await two.bus.follow(flow_topic("g"))
    assert await one.bus.publish([changed(user, n, "g") for n, user in enumerate(users)]) == 1
    await two.until(lambda w: len(w.revisions) == 2 * len(users))
    by_topic = [(t.kind, event.user_id) for t, event in two.received if isinstance(event, StateChanged)]
    assert sorted(user for kind, user in by_topic if kind == "user") == sorted(users)
    assert [user for kind, user in by_topic if kind == "flow"] == users
    servers = {two.bus._servers.server_of(two.bus._channel(user_topic(user))) for user in users}
    assert len(servers) == 3, "they are spread over all servers"

    slot = key_slot(two.bus._channel(user_topic("u0")).encode())
    await cluster.give_away(slot)
    await two.until(lambda w: any(gap.topics is None for gap in w.gaps), 20)
    await two.bus.ping()
    assert abs(await two.bus.server_time() - datetime.now(UTC)) < timedelta(seconds=5)
    before = len(two.received)
    async with asyncio.timeout(20):
        while len(two.received) == before:  # the publisher has to find the new server too
            try:
                await one.bus.publish([changed("u0", 1000)])
            except BusUnavailableError:
                continue
            await asyncio.sleep(0.1)
    assert two.revisions[-1] == 1000

    cluster.nodes[1].kill()
    await until(lambda: not two.bus.subscribed)
    cluster.nodes[1].start()
    await until(lambda: two.bus.subscribed)
    await cluster.close()


@pytest.mark.expected_logs("redis connection lost")
@pytest.mark.timeout(120)
async def test_sentinel_names_another_master(start: Start, tmp_path: Path) -> None:
    master = RedisServer()
    replica = Replica(master)
    sentinel = SentinelServer(tmp_path, master)
    await sentinel.knows(replica)
    one, two = await start(sentinel.url), await start(sentinel.url)
    await two.bus.follow(user_topic("ada"))
    await one.bus.publish([changed("ada", 0)])
    await two.until(lambda w: w.revisions == [0])
    master.kill()
    await two.until(lambda w: any(gap.topics is None for gap in w.gaps), 40)
    async with asyncio.timeout(20):
        while True:
            try:
                await one.bus.publish([changed("ada", 1)])
                break
            except BusUnavailableError:
                await asyncio.sleep(0.1)
    await two.until(lambda w: 1 in w.revisions)
    for worker in (one, two):
        await worker.bus.stop()
    await sentinel.redis.aclose()
    for server in (sentinel, replica):
        server.kill()


async def test_tls(start: Start, tmp_path: Path) -> None:
    server = RedisServer()
    proxy = TlsProxy(server.port, tmp_path)
    await proxy.mend()
    worker = await start(f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={proxy.authority}")
    await worker.bus.follow(user_topic("ada"))
    await worker.bus.publish([changed("ada")])
    await worker.until(lambda w: w.revisions == [0])
    stranger = RedisBus(f"rediss://127.0.0.1:{proxy.port}/0", "x")  # which knows no such authority
    with pytest.raises(BusUnavailableError):
        await stranger.ping()
    await stranger.stop()
    await worker.bus.stop()
    await proxy.cut()
    server.kill()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:6379",
        "redis+nothing://127.0.0.1:6379",
        "redis+sentinel://127.0.0.1:26379",
        "redis+sentinel://127.0.0.1:26379/main/x",
        "redis+cluster://127.0.0.1",
        "rediss+cluster://127.0.0.1:1?nonsense=1",
        "nonsense",
    ],
)
def test_an_unusable_url_is_refused_with_the_supported_forms(url: str) -> None:
    with pytest.raises(BusUnavailableError, match=r"redis\+cluster://"):
        RedisBus(url, "x")


def test_events_for_everyone_have_one_channel(url: str) -> None:
    bus = RedisBus(url, "name")
    assert bus._channel(EVERYONE) == "server-flow:name:everyone"
    assert bus._channel(user_topic("ada")).startswith("server-flow:name:users/1024:")
