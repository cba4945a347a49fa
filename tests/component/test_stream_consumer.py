"""The Python consumer of a stream, on a real Redis that fails, and with processes that are killed."""

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from app.contracts.errors import BusUnavailableError
from app.contracts.integration import IntegrationSecret
from app.services.integrations.secrets import new_secret
from realtime.consumer import MissingSecretError, StreamConsumer, StreamEvent
from realtime.consumer.group import BLOCK_MS
from realtime.redis.servers import TIMEOUT_SECONDS
from realtime.redis.streams import GROUP, RedisEventStreams, stream_key
from tests.support.faults import RedisServer
from tests.support.redis_kinds import DurableRedis, RedisCluster, Replica, SentinelServer
from tests.support.waiting import until

ALIAS = "payment"
KEY = stream_key("server_flow", ALIAS)

READS_AND_WAITS = """
import asyncio, sys
from realtime.consumer import StreamConsumer

async def main():
    url, name = sys.argv[1:]
    async with StreamConsumer(url, "payment", consumer=name, lease_seconds=1) as consumer:
        async for event in consumer:
            print(event.id, flush=True)
            if event.id == "evt_2":
                await asyncio.Event().wait()
            await consumer.ack(event)

asyncio.run(main())
"""


def event(number: int, user: str = "ada") -> tuple[str, bytes]:
    """Return the id and the text of an event about a user's state."""
    body = {"id": f"evt_{number}", "type": "flow.transition", "data": {"flowId": "f", "userId": user}}
    return f"evt_{number}", msgspec.json.encode(body)


class Seen:
    """A handler that records what it receives, and fails as often as it is to."""

    def __init__(self) -> None:
        self.events: list[StreamEvent] = []
        self.failing: dict[str, int] = {}
        self._grown = asyncio.Event()

    async def __call__(self, received: StreamEvent) -> None:
        self.events.append(received)
        self._grown.set()
        if self.failing.get(received.id, 0):
            self.failing[received.id] -= 1
            raise RuntimeError("as the test wants")

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.events]

    async def until(self, *ids: str, seconds: float = 30) -> None:
        """Until all of these were received."""
        async with asyncio.timeout(seconds):
            while not set(ids) <= set(self.ids):
                self._grown.clear()
                await self._grown.wait()


class Running:
    """A consumer whose events go to a handler, until the end of the block."""

    def __init__(self, url: str, seen: Seen, concurrency: int = 1, **options: Any) -> None:
        options = {"min_retry_seconds": 0.02, "lease_seconds": 2, **options}
        self.consumer = StreamConsumer(url, ALIAS, **options)
        self._seen, self._concurrency = seen, concurrency

    async def __aenter__(self) -> StreamConsumer:
        await self.consumer.__aenter__()
        self._task = asyncio.create_task(self.consumer.run(self._seen, concurrency=self._concurrency))
        return self.consumer

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.consumer.close()


async def append(
    url: str, events: Sequence[tuple[str, bytes]], seal_with: IntegrationSecret | None = None
) -> None:
    streams = RedisEventStreams(url, "server_flow")
    try:
        await streams.append(ALIAS, events, seal_with)
    finally:
        await streams.close()


async def pending(redis: Redis) -> int:
    """Return the number of entries that were read and not acknowledged."""
    answer: Any = await redis.xpending(KEY, GROUP)
    return int(answer["pending"])


async def until_nothing_is_pending(redis: Redis) -> None:
    async with asyncio.timeout(30):
        while await pending(redis):
            await asyncio.sleep(0.02)  # Redis announces no acknowledgement


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    server = RedisServer()
    yield server
    server.kill()


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    redis = Redis(port=server.port)
    yield redis
    await redis.aclose()


async def test_events_come_in_order_and_once(server: RedisServer, redis: Redis) -> None:
    await append(server.url, [event(1), event(2, "bob")])
    async with StreamConsumer(server.url, ALIAS) as consumer:
        received = []
        async for each in consumer:
            received.append((each.id, each.type, each.state, each.redelivered))
            await consumer.ack(each)
            if len(received) == 2:
                await append(server.url, [event(3)])
            if len(received) == 3:
                break
    assert received == [
        ("evt_1", "flow.transition", ("f", "ada", None), False),
        ("evt_2", "flow.transition", ("f", "bob", None), False),
        ("evt_3", "flow.transition", ("f", "ada", None), False),
    ]
    assert await pending(redis) == 0


async def test_a_consumer_may_be_first(server: RedisServer) -> None:
    seen = Seen()
    async with Running(server.url, seen):
        await append(server.url, [event(1)])
        await seen.until("evt_1")


async def test_an_event_that_is_not_acknowledged_comes_again_and_holds_its_state_alone(
    server: RedisServer, redis: Redis
) -> None:
    await append(server.url, [event(1), event(2), event(3, "bob"), event(4)])
    received: list[tuple[str, int]] = []
    async with StreamConsumer(server.url, ALIAS, min_retry_seconds=0.02) as consumer:
        async for each in consumer:
            received.append((each.id, each.deliveries))
            if each.id != "evt_1" or each.deliveries == 3:
                await consumer.ack(each)
            if each.id == "evt_4":
                break
    names = [one[0] for one in received]
    assert names.index("evt_3") < names.index("evt_2")
    of_ada = [one for one in received if one[0] != "evt_3"]
    assert [one[0] for one in of_ada] == ["evt_1", "evt_1", "evt_1", "evt_2", "evt_4"]
    assert [one[1] for one in of_ada[:3]] == [1, 2, 3]
    assert await pending(redis) == 0


@pytest.mark.expected_logs("event handler failed")
async def test_a_failing_handler_is_called_again_in_the_order_of_the_state(
    server: RedisServer, redis: Redis
) -> None:
    seen = Seen()
    seen.failing = {"evt_2": 3}
    await append(server.url, [event(1), event(2), event(3), event(4, "bob")])
    async with Running(server.url, seen, concurrency=2):
        await seen.until("evt_3", "evt_4")
        await until_nothing_is_pending(redis)
    assert [each for each in seen.ids if each != "evt_4"] == ["evt_1", *["evt_2"] * 4, "evt_3"]


@pytest.mark.expected_logs("event handler failed")
async def test_a_poison_event_is_given_up_only_if_the_program_says_so(
    server: RedisServer, redis: Redis
) -> None:
    seen, poisoned = Seen(), Seen()
    seen.failing = {"evt_1": 1000}
    poisoned.failing = {"evt_1": 1}
    await append(server.url, [event(1), event(2)])
    async with Running(server.url, seen, max_deliveries=3):
        async with asyncio.timeout(30):
            while len(seen.events) < 6:
                await asyncio.sleep(0.02)
        assert await pending(redis) == 2
    assert set(seen.ids) == {"evt_1"}
    handled = Seen()
    async with Running(server.url, handled, max_deliveries=3, on_poison=poisoned):
        await handled.until("evt_2")
        await until_nothing_is_pending(redis)
    assert poisoned.ids == ["evt_1", "evt_1"], "it failed once itself"
    assert handled.ids == ["evt_2"]


@pytest.mark.expected_logs("malformed stream entry")
async def test_an_entry_that_is_no_event_is_passed_over(server: RedisServer, redis: Redis) -> None:
    await append(server.url, [event(1)])
    fields: dict[Any, Any] = {"event": "{}"}
    await redis.xadd(KEY, fields)
    fields = {"something": "else"}
    await redis.xadd(KEY, fields)
    await append(server.url, [event(2)])
    seen = Seen()
    async with Running(server.url, seen):
        await seen.until("evt_1", "evt_2")
        await until_nothing_is_pending(redis)
    assert seen.ids == ["evt_1", "evt_2"]


@pytest.mark.parametrize("name", ["reader", "another"])
async def test_the_event_of_a_killed_process_is_delivered_to_another(
    server: RedisServer, redis: Redis, name: str
) -> None:
    await append(server.url, [event(1), event(2), event(3)])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", READS_AND_WAITS, server.url, name, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert [await process.stdout.readline() for _ in range(2)] == [b"evt_1\n", b"evt_2\n"]
    seen = Seen()
    async with Running(server.url, seen, claim_after_seconds=0.1):
        process.kill()
        await process.wait()
        await seen.until("evt_2", "evt_3")
        await until_nothing_is_pending(redis)
    assert seen.ids == ["evt_2", "evt_3"]
    assert seen.events[0].redelivered


async def test_one_process_reads_at_a_time_and_another_continues_at_once(
    server: RedisServer, redis: Redis
) -> None:
    first, second = Seen(), Seen()
    await append(server.url, [event(1)])
    async with Running(server.url, first, lease_seconds=60) as reading:
        await first.until("evt_1")
        async with Running(server.url, second, lease_seconds=60):
            await append(server.url, [event(2)])
            await first.until("evt_2")
            await until_nothing_is_pending(redis)
            await reading.close()
            await append(server.url, [event(3)])
            await second.until("evt_3")
            await until_nothing_is_pending(redis)
    assert (first.ids, second.ids) == (["evt_1", "evt_2"], ["evt_3"])


@pytest.mark.expected_logs("redis connection lost", optional=True)
async def test_a_restart_of_redis_with_its_data_loses_nothing(tmp_path: Path) -> None:
    server = DurableRedis(tmp_path)
    seen = Seen()
    await append(server.url, [event(n, f"user{n % 3}") for n in range(10)])
    async with Running(server.url, seen):
        await seen.until(*(f"evt_{n}" for n in range(5)))
        server.kill()
        server.start()
        await append(server.url, [event(n, f"user{n % 3}") for n in range(10, 20)])
        await seen.until(*(f"evt_{n}" for n in range(20)))
        redis = Redis(port=server.port)
        await until_nothing_is_pending(redis)
        await redis.aclose()
    server.kill()
    assert_first_ones_in_order(seen)


@pytest.mark.expected_logs("redis connection lost", optional=True)
async def test_a_redis_that_lost_its_data_delivers_what_is_appended_then(server: RedisServer) -> None:
    seen = Seen()
    await append(server.url, [event(1)])
    async with Running(server.url, seen):
        await seen.until("evt_1")
        server.kill()
        server.start()
        await append(server.url, [event(2), event(3)])
        await seen.until("evt_2", "evt_3")
    assert_first_ones_in_order(seen)


@pytest.mark.expected_logs("redis connection lost", optional=True)
async def test_an_event_handled_while_redis_is_away_is_acknowledged_later(tmp_path: Path) -> None:
    server = DurableRedis(tmp_path)
    await append(server.url, [event(1)])
    async with StreamConsumer(server.url, ALIAS) as consumer:
        received = await consumer.next()
        server.kill()
        await consumer.ack(received)
        server.start()
        redis = Redis(port=server.port)
        await until_nothing_is_pending(redis)
        await redis.aclose()
    server.kill()


def assert_first_ones_in_order(seen: Seen) -> None:
    """Assert that the first deliveries of the events of each state came in order."""
    order: dict[Any, list[int]] = defaultdict(list)
    for each in {one.id: one for one in reversed(seen.events)}.values():
        order[each.state].append(int(each.id.removeprefix("evt_")))
    firsts = {state: list(reversed(numbers)) for state, numbers in order.items()}
    assert all(numbers == sorted(numbers) for numbers in firsts.values()), firsts


async def test_ten_thousand_entries_pass_in_order_with_few_in_memory(
    server: RedisServer, redis: Redis
) -> None:
    await append(server.url, [event(n, f"user{n % 97}") for n in range(10_000)])
    largest = 0
    numbers: dict[Any, list[int]] = defaultdict(list)
    busy: set[Any] = set()
    finished = asyncio.Event()

    async def handle(received: StreamEvent) -> None:
        nonlocal largest
        assert received.state not in busy
        busy.add(received.state)
        number = int(received.id.removeprefix("evt_"))
        if number % 500 == 0:
            largest = max(largest, await pending(redis))
        numbers[received.state].append(number)
        busy.discard(received.state)
        if sum(map(len, numbers.values())) == 10_000:
            finished.set()

    async with StreamConsumer(server.url, ALIAS, batch=50) as consumer:
        running = asyncio.create_task(consumer.run(handle, concurrency=8))
        await asyncio.wait_for(finished.wait(), 100)
        await until_nothing_is_pending(redis)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert 0 < largest <= 50
    assert all(order == sorted(order) for order in numbers.values())
    assert sum(map(len, numbers.values())) == 10_000


@pytest.mark.expected_logs("event handler failed")
async def test_many_entries_of_a_failing_state_do_not_stop_the_others(
    server: RedisServer, redis: Redis
) -> None:
    seen = Seen()
    seen.failing = {"evt_0": 4}
    await append(server.url, [event(n) for n in range(300)] + [event(300, "bob")])
    async with Running(server.url, seen, batch=10, min_retry_seconds=0.3):
        await seen.until("evt_300")
        assert set(seen.ids) == {"evt_0", "evt_300"}
        await seen.until("evt_299")
        await until_nothing_is_pending(redis)
    assert_first_ones_in_order(seen)


async def test_old_entries_are_removed(server: RedisServer, redis: Redis) -> None:
    fields: dict[Any, Any] = {"id": "evt_0", "type": "flow.transition", "event": event(0)[1]}
    seconds, _ = await redis.time()
    await redis.xadd(KEY, fields, id=f"{(seconds - 7 * 86_400 - 60) * 1000}-0")
    await redis.xadd(KEY, fields, id=f"{(seconds - 7 * 86_400 + 60) * 1000}-0")
    await append(server.url, [event(1)])
    assert await redis.xlen(KEY) == 2
    assert 0 < await redis.pttl(KEY) <= 7 * 86_400_000


async def test_a_full_redis_takes_all_events_of_a_batch_or_none(server: RedisServer, redis: Redis) -> None:
    await append(server.url, [event(1)])
    await redis.config_set("maxmemory", "1mb")
    with pytest.raises(BusUnavailableError):
        await append(server.url, [event(n) for n in range(2, 10)])
    assert await redis.xlen(KEY) == 1
    await redis.config_set("maxmemory", "0")
    await append(server.url, [event(n) for n in range(2, 10)])
    assert await redis.xlen(KEY) == 9


async def acknowledge_all(consumer: StreamConsumer) -> None:
    async for each in consumer:
        await consumer.ack(each)


async def test_sealed_events_are_read_with_the_secrets_that_sealed_them(
    server: RedisServer, redis: Redis
) -> None:
    old, new = (new_secret(datetime(2026, 1, 1, tzinfo=UTC)) for _ in range(2))
    await append(server.url, [event(1)])
    await append(server.url, [event(2)], old)
    await append(server.url, [event(3), event(4, "bob")], new)
    async with StreamConsumer(server.url, ALIAS, secrets=[new.secret]) as consumer:
        reading = asyncio.create_task(acknowledge_all(consumer))
        with pytest.raises(MissingSecretError, match=old.id):
            await reading
    assert await pending(redis) > 0, "nothing is lost"
    received = []
    async with StreamConsumer(server.url, ALIAS, secrets=[new.secret, old.secret]) as consumer:
        async for each in consumer:
            received.append(each.id)
            await consumer.ack(each)
            if each.id == "evt_4":
                break
    assert received in (["evt_1", "evt_2", "evt_3", "evt_4"], ["evt_2", "evt_3", "evt_4"])
    assert await pending(redis) == 0


@pytest.mark.expected_logs("malformed stream entry")
async def test_a_changed_entry_is_given_up_and_stops_nothing(server: RedisServer, redis: Redis) -> None:
    secret = new_secret(datetime(2026, 1, 1, tzinfo=UTC))
    await append(server.url, [event(1), event(2)], secret)
    entries: Any = await redis.xrange(KEY)
    _, first = entries[0]
    await redis.xadd(KEY, {**first, b"id": b"evt_9"})
    await append(server.url, [event(3)], secret)
    seen = Seen()
    async with Running(server.url, seen, secrets=[secret.secret]):
        await seen.until("evt_3")
    assert seen.ids == ["evt_1", "evt_2", "evt_3"]
    await until_nothing_is_pending(redis)


async def test_a_wrong_password_ends_the_consumer(server: RedisServer, redis: Redis) -> None:
    await redis.config_set("requirepass", "secret")
    async with StreamConsumer(f"redis://:wrong@127.0.0.1:{server.port}/0", ALIAS) as consumer:
        with pytest.raises(Exception, match=r"(?i)password"):
            await consumer.next()


@pytest.mark.expected_logs("redis connection lost", optional=True)
async def test_streams_and_consumers_work_on_a_cluster_whose_slots_move(tmp_path: Path) -> None:
    cluster = await RedisCluster(tmp_path).join()
    seen = Seen()
    streams = RedisEventStreams(cluster.url, "server_flow")
    await streams.append(ALIAS, [event(1)])
    async with Running(cluster.url, seen):
        await seen.until("evt_1")
        await cluster.give_away(key_slot(KEY.encode()))
        await streams.append(ALIAS, [event(2), event(3)])
        await seen.until("evt_2", "evt_3")
    await streams.close()
    await cluster.close()


@pytest.mark.expected_logs("redis connection lost", optional=True)
async def test_streams_and_consumers_follow_the_master_behind_sentinel(tmp_path: Path) -> None:
    master = RedisServer()
    replica = Replica(master)
    sentinel = SentinelServer(tmp_path, master)
    await sentinel.knows(replica)
    seen = Seen()
    streams = RedisEventStreams(sentinel.url, "server_flow")
    await streams.append(ALIAS, [event(1)])
    copied = Redis(port=replica.port)
    async with Running(sentinel.url, seen):
        await seen.until("evt_1")
        async with asyncio.timeout(30):
            while not await copied.exists(KEY):
                await asyncio.sleep(0.02)
        master.kill()
        await until_appended(streams, [event(2), event(3)])
        await seen.until("evt_2", "evt_3")
    await copied.aclose()
    await streams.close()
    await sentinel.redis.aclose()
    for each in (sentinel, replica):
        each.kill()


async def until_appended(streams: RedisEventStreams, events: Sequence[tuple[str, bytes]]) -> None:
    """Append events as soon as there is a new master."""
    appended: list[bool] = []

    async def repeat() -> None:
        while not appended:
            try:
                await streams.append(ALIAS, events)
                appended.append(True)
            except BusUnavailableError:
                await asyncio.sleep(0.1)

    task = asyncio.create_task(repeat())
    await until(lambda: bool(appended), 60)
    await task


def test_a_read_of_an_idle_stream_ends_before_the_timeout_of_connections() -> None:
    tick_seconds = 1.0  # of a Redis with hz 1: that of embedded servers ends blocking reads at the next tick
    assert BLOCK_MS / 1000 + tick_seconds < TIMEOUT_SECONDS
