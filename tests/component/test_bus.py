"""The bus on Redis: what is forged, doubled or late is not taken; what may have been missed is told; and
it works on every kind of Redis."""

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

from app.contracts.events import (
    EVERYONE,
    Event,
    Gap,
    PresenceAsked,
    StateChanged,
    Topic,
    flow_topic,
    user_topic,
)
from app.contracts.ports.bus import BusUnavailableError
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
    """A bus that keeps what it is told."""

    def __init__(self, url: str, namespace: str) -> None:
        self.bus = RedisBus(url, namespace)
        self.heard: list[tuple[Topic, Event]] = []
        self.gaps: list[Gap] = []
        self.gone: list[str] = []
        self._grown = asyncio.Event()
        self.bus.subscribe(lambda topic, event: self._keep(self.heard, (topic, event)))
        self.bus.on_gap(lambda gap: self._keep(self.gaps, gap))
        self.bus.on_gone(lambda worker: self._keep(self.gone, worker))

    def _keep(self, kept: list[Any], told: object) -> None:
        kept.append(told)
        self._grown.set()

    @property
    def revisions(self) -> list[int]:
        return [event.revision for _, event in self.heard if isinstance(event, StateChanged)]

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


async def test_a_worker_hears_of_what_it_follows_and_of_nothing_else(start: Start, url: str) -> None:
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


@pytest.mark.expected_logs("a message on the channel does not count")
async def test_forged_doubled_and_late_messages_are_not_taken(start: Start, url: str) -> None:
    one, two = await start(url), await start(url)
    await two.bus.follow(user_topic("ada"))
    channel = two.bus._channel(user_topic("ada"))
    async with Tap(url, channel) as tap:
        genuine = []
        for revision in range(4):
            await one.bus.publish([changed("ada", revision)])
            genuine.append(await tap.next())
        body = genuine[3][16:]
        forged = EnvelopeWriter(b"another key", "somebody").seal(channel, [changed("ada", 99)])
        elsewhere = EnvelopeWriter(KEY, "somebody").seal("another channel", [changed("ada", 98)])
        bad = [b"", b"x", b"\0" * 16, bytes(16) + body, genuine[3][:16] + body.replace(b":3", b":9")]
        for message in (*genuine[::-1], *genuine, forged, elsewhere, *bad):
            await tap.send(message)
        await one.bus.publish([changed("ada", 4)])
        await two.until(lambda w: 4 in w.revisions)
    assert two.revisions == [0, 1, 2, 3, 4]
    assert two.gaps == []


async def test_a_message_that_is_lost_is_noticed(start: Start, url: str) -> None:
    one, two = await start(url), await start(url)
    for user in ("ada", "eve"):
        await two.bus.follow(user_topic(user))
    await one.bus.publish([changed("ada", 0)])
    await two.until(lambda w: w.revisions == [0])
    channel = two.bus._channel(user_topic("ada"))
    one.bus._sealer.seal(channel, [changed("ada", 1)])
    one.bus._sealer.sent(channel)  # and it is lost on its way
    await one.bus.publish([changed("ada", 2)])
    await two.until(lambda w: len(w.gaps) == 1)
    (gap,) = two.gaps
    assert gap.concerns(user_topic("ada"))
    assert not gap.concerns(user_topic("eve"))
    assert not gap.concerns(EVERYONE)
    assert two.revisions == [0, 2]


@pytest.mark.expected_logs("deaf, Redis is away")
async def test_who_could_not_be_reported_is_reported_of_the_gap_later(start: Start, tmp_path: Path) -> None:
    server = RedisServer()
    proxy = await CuttableProxy(server.port).mend()
    one, two = await start(f"redis://127.0.0.1:{proxy.port}"), await start(server.url)
    await two.bus.follow(user_topic("ada"))
    await one.bus.follow(user_topic("ada"))
    await proxy.cut()
    with pytest.raises(BusUnavailableError):
        await one.bus.publish([changed("ada", 0)])
    assert one.revisions == [0], "its own clients hear it without Redis"
    await proxy.mend()
    await two.until(lambda w: any(gap.concerns(user_topic("ada")) for gap in w.gaps))
    assert two.gaps[0].since.timestamp() * 1000 < changed("ada").at, "since the time of the change"
    await one.until(lambda w: any(gap.topics is None for gap in w.gaps))
    await one.bus.publish([changed("ada", 1)])  # after whatever was under way
    assert one.bus._sealer.unreported_losses == []
    await proxy.cut()
    server.kill()


@pytest.mark.expected_logs("deaf, Redis is away", optional=True)
async def test_what_is_owed_is_reported_before_a_goodbye(start: Start) -> None:
    server = RedisServer()
    proxy = await CuttableProxy(server.port).mend()
    one, two = await start(f"redis://127.0.0.1:{proxy.port}"), await start(server.url)
    await two.bus.follow(user_topic("ada"))
    await proxy.cut()
    with pytest.raises(BusUnavailableError):
        await one.bus.publish([changed("ada", 0)])
    await proxy.mend()
    await one.bus.stop()
    await two.until(lambda w: w.gone == [one.bus.worker])
    assert [gap.concerns(user_topic("ada")) for gap in two.gaps] == [True]
    await proxy.cut()
    server.kill()


@pytest.mark.expected_logs("deaf, Redis is away")
async def test_while_it_is_deaf_a_worker_does_not_wait_for_redis(start: Start) -> None:
    server = RedisServer()
    worker = await start(server.url)
    await worker.bus.follow(user_topic("ada"))
    server.signal(signal.SIGSTOP)
    await until(lambda: not worker.bus.subscribed)
    began = time.monotonic()
    for revision in range(100):
        with pytest.raises(BusUnavailableError):
            await worker.bus.publish([changed("ada", revision)])
    assert time.monotonic() - began < 20, "not 2 seconds each"
    assert worker.revisions == list(range(100)), "its own clients hear them"
    assert worker.bus._channel(user_topic("ada")) in worker.bus._sealer.unreported_losses
    server.signal(signal.SIGCONT)
    await until(lambda: worker.bus.subscribed and not worker.bus._sealer.unreported_losses)
    server.kill()


@pytest.mark.expected_logs("deaf, Redis is away", "not heard yet, Redis is away")
async def test_those_who_wait_for_the_same_channel_fail_each_by_itself(start: Start) -> None:
    """Redis hangs while two users of one shard come: both are let in, and told of the gap later."""
    server = RedisServer()
    worker = await start(server.url)
    by_channel: dict[str, list[str]] = {}
    for n in range(2000):
        by_channel.setdefault(worker.bus._channel(user_topic(f"u{n}")), []).append(f"u{n}")
    together = next(users for users in by_channel.values() if len(users) > 2)[:3]
    server.signal(signal.SIGSTOP)
    joins = []
    for user in together:
        joins.append(asyncio.create_task(worker.bus.follow(user_topic(user))))
        await asyncio.sleep(0.3)  # so that the first gives up while the others still wait
    await asyncio.wait_for(asyncio.gather(*joins), 5)
    server.signal(signal.SIGCONT)
    await worker.until(lambda w: any(gap.topics is None for gap in w.gaps))
    await worker.bus.publish([changed(user, n) for n, user in enumerate(together)])
    await worker.until(lambda w: w.revisions == [0, 1, 2])
    server.kill()


@pytest.mark.expected_logs("a worker is gone")
async def test_a_worker_that_was_taken_for_gone_and_comes_back_has_reported_others_or_nobody(
    start: Start, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(bus_module, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(peers_module, "GONE_SECONDS", 0.5)
    one, two = await start(url), await start(url)
    await one.bus.follow(user_topic("ada"))
    await until(lambda: bool(one.bus._peers.present))
    await end_tasks(two.bus._tasks[1:])  # no heartbeats: cut off, as far as one can tell
    await one.until(lambda w: w.gone == [two.bus.worker])
    before = len(one.gaps)
    await two.bus.publish([changed("ada")])
    await one.until(lambda w: w.revisions == [0])
    assert [gap.topics for gap in one.gaps[before:]] == [None]
    assert list(one.bus._peers.present) == [two.bus.worker]


async def test_presence_is_asked_of_all_who_hear_the_channel_also_for_another_user(
    start: Start, url: str
) -> None:
    one, two = await start(url), await start(url)
    by_channel: dict[str, list[str]] = {}
    for n in range(2000):
        by_channel.setdefault(one.bus._channel(user_topic(f"u{n}")), []).append(f"u{n}")
    asking, another = next(users for users in by_channel.values() if len(users) > 1)[:2]
    await one.bus.follow(user_topic(asking))
    await two.bus.follow(user_topic(another))
    question = PresenceAsked("q", "f", asking)
    assert await one.bus.publish([question]) == 2
    for worker in (one, two):
        await worker.until(lambda w: any(event == question for _, event in w.heard))


@pytest.mark.expected_logs("a worker is gone")
async def test_a_worker_that_ends_or_is_silent_is_gone(
    start: Start, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(bus_module, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(peers_module, "GONE_SECONDS", 0.5)
    one, two, three = await start(url), await start(url), await start(url)
    await until(lambda: len(one.bus._peers.present) == 2)
    await two.bus.stop()
    await one.until(lambda w: w.gone == [two.bus.worker])
    assert one.gaps == [], "it said goodbye: it told all it had to tell"
    await end_tasks(three.bus._tasks)  # as when it is killed
    await one.until(lambda w: w.gone == [two.bus.worker, three.bus.worker])
    assert [gap.topics for gap in one.gaps] == [None], "what it committed last it may have told nobody"


async def test_a_worker_ends_also_as_it_sends(
    start: Start, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """The client of Redis swallows a cancellation that comes just as it has sent."""
    monkeypatch.setattr(bus_module, "BEAT_SECONDS", 0)
    for turns in range(50):
        worker = await start(url)
        for _ in range(turns % 10):
            await asyncio.sleep(0)
        async with asyncio.timeout(tasks_module.AGAIN_AFTER_SECONDS - 1):  # at the first time
            await worker.bus.stop()


async def test_channels_that_nobody_needs_are_dropped(
    start: Start, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(bus_module, "BEAT_SECONDS", 0.05)
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


@pytest.mark.expected_logs("deaf, Redis is away")
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
    by_topic = [(t.kind, event.user_id) for t, event in two.heard if isinstance(event, StateChanged)]
    assert sorted(user for kind, user in by_topic if kind == "user") == sorted(users)
    assert [user for kind, user in by_topic if kind == "flow"] == users
    servers = {two.bus._servers.server_of(two.bus._channel(user_topic(user))) for user in users}
    assert len(servers) == 3, "they are spread over all servers"

    slot = key_slot(two.bus._channel(user_topic("u0")).encode())
    await cluster.give_away(slot)
    await two.until(lambda w: any(gap.topics is None for gap in w.gaps), 20)
    await two.bus.ping()
    assert abs(await two.bus.server_time() - datetime.now(UTC)) < timedelta(seconds=5)
    before = len(two.heard)
    async with asyncio.timeout(20):
        while len(two.heard) == before:  # who publishes has to find the new server too
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


@pytest.mark.expected_logs("deaf, Redis is away")
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
def test_what_is_no_redis_url_is_reported_with_what_is(url: str) -> None:
    with pytest.raises(BusUnavailableError, match=r"redis\+cluster://"):
        RedisBus(url, "x")


def test_what_concerns_everyone_has_one_channel(url: str) -> None:
    bus = RedisBus(url, "name")
    assert bus._channel(EVERYONE) == "server-flow:name:everyone"
    assert bus._channel(user_topic("ada")).startswith("server-flow:name:users/1024:")
