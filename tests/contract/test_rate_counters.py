"""The contract of RateCounters."""

import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from app.contracts.errors import BusUnavailableError
from app.contracts.ports.rate_limits import CountedRequests, RateCounters, RateKey
from config.settings import Settings
from realtime.redis.rate_limiter import MAX_BATCH, RedisRateCounters
from tests.support.fake_rates import MAX_USE_SECONDS, FakeRateCounters
from tests.support.faults import CuttableProxy
from tests.support.long_form import form
from tests.support.redis_kinds import RedisCluster

PORTS = (RateCounters,)

SLOW = RateKey("user", "ada", 1)
"""A budget that regains next to nothing while a test runs."""
BATCHES = form("rate counters: full batches of a report", short=2, long=8)


class RedisRates:
    """Counters of two workers on one Redis, the first behind a proxy."""

    def __init__(self, url: str, proxy: CuttableProxy) -> None:
        self.proxy = proxy
        self.database = f"test_{uuid.uuid4().hex}"
        self.redis = Redis.from_url(url)
        own, _, number = url.rpartition("/")
        password = own.rpartition("@")[0]
        at = f"{password}@" if password else "redis://"
        self.workers = [
            RedisRateCounters(f"{at}127.0.0.1:{proxy.port}/{number}", self.database),
            RedisRateCounters(url, self.database),
        ]
        for worker in self.workers:
            worker.set_key(b"s" * 32)

    async def names(self) -> list[bytes]:
        found: Any = await self.redis.keys(f"server-flow:{self.database}:*")
        return list(found)


class Workers:
    """The counters of two workers, and outages of the first one's Redis."""

    def __init__(self, redis: RedisRates | None) -> None:
        self._redis = redis
        self._fake = FakeRateCounters()
        self.first: RateCounters = redis.workers[0] if redis else self._fake
        self.second: RateCounters = redis.workers[1] if redis else self._fake

    async def cut(self) -> None:
        self._fake.available = False
        if self._redis:
            await self._redis.proxy.cut()

    async def mend(self) -> None:
        self._fake.available = True
        if self._redis:
            await self._redis.proxy.mend()


@pytest.fixture
async def redis(servers: Settings) -> AsyncIterator[RedisRates]:
    assert servers.redis_url is not None
    url = servers.redis_url.get_secret_value()
    rates = RedisRates(url, await CuttableProxy(urlsplit(url).port or 6379).mend())
    yield rates
    for name in await rates.names():
        await rates.redis.delete(name)
    for worker in rates.workers:
        await worker.close()
    await rates.redis.aclose()
    await rates.proxy.cut()


@pytest.fixture(params=["fake", pytest.param("redis", marks=pytest.mark.server)])
def workers(request: pytest.FixtureRequest) -> Workers:
    return Workers(request.getfixturevalue("redis") if request.param == "redis" else None)


def counted(requests: Mapping[RateKey, int], seconds: float = 0) -> dict[RateKey, CountedRequests]:
    """Return requests that came in the last ``seconds``."""
    return {key: CountedRequests(count, seconds) for key, count in requests.items()}


def use(requests: float) -> object:
    """Return what equals a use, less what has been regained since."""
    return pytest.approx(requests, abs=0.5)


async def test_requests_of_all_workers_are_added(workers: Workers) -> None:
    assert await workers.first.add(counted({SLOW: 1})) == {SLOW: use(1)}
    assert await workers.second.add(counted({SLOW: 0})) == {SLOW: use(1)}
    assert await workers.second.add(counted({SLOW: 1})) == {SLOW: use(2)}
    assert await workers.first.add(counted({SLOW: 0})) == {SLOW: use(2)}


async def test_budgets_are_apart(workers: Workers) -> None:
    others = [RateKey("user", "bob", 1), RateKey("service", "ada", 1), RateKey("user", "ada", 2)]
    await workers.first.add(counted({SLOW: 2}))
    uses = await workers.first.add(counted(dict.fromkeys(others, 0)))
    assert uses == dict.fromkeys(others, use(0))


async def test_a_report_may_have_many_budgets(workers: Workers) -> None:
    keys = [RateKey("address", f"10.0.{n // 250}.{n % 250}", 2) for n in range(BATCHES * MAX_BATCH + 100)]
    requests = {key: n % 3 for n, key in enumerate(keys)}
    found = await workers.first.add(counted(requests))
    assert found == {key: use(count) for key, count in requests.items()}
    assert await workers.second.add(counted({})) == {}


async def test_a_use_is_bounded(workers: Workers) -> None:
    key = RateKey("user", "ada", 60)
    assert await workers.first.add(counted({key: 10**9})) == {key: pytest.approx(MAX_USE_SECONDS, abs=10)}


async def test_a_budget_regains_its_requests(workers: Workers) -> None:
    fast = RateKey("user", "ada", 6_000_000)
    first = (await workers.first.add(counted({fast: 1_000_000})))[fast]
    second = (await workers.second.add(counted({fast: 0})))[fast]
    assert second < first


async def test_what_was_regained_while_the_requests_came_does_not_count(workers: Workers) -> None:
    key = RateKey("user", "ada", 60)
    assert await workers.first.add(counted({key: 30}, seconds=10)) == {key: use(20)}
    assert await workers.second.add(counted({key: 30}, seconds=10)) == {key: use(50)}


async def test_steady_requests_of_several_workers_add_up_even_if_each_alone_is_slow_enough(
    workers: Workers,
) -> None:
    key = RateKey("user", "ada", 60)
    assert await workers.first.add(counted({key: 19}, seconds=20)) == {key: use(0)}
    assert await workers.second.add(counted({key: 19}, seconds=20)) == {key: use(18)}


async def test_an_outage_is_an_error_and_afterwards_the_use_is_known(workers: Workers) -> None:
    await workers.first.add(counted({SLOW: 1}))
    await workers.cut()
    with pytest.raises(BusUnavailableError):
        await workers.first.add(counted({SLOW: 1}))
    await workers.mend()
    assert await workers.first.add(counted({SLOW: 0})) == {SLOW: use(1)}


@pytest.mark.server
async def test_redis_sees_no_name_and_stores_no_budget_that_is_full(redis: RedisRates) -> None:
    requests = {RateKey("user", "ada-lovelace", 1): 1, RateKey("address", "192.0.2.77", 1): 0}
    await redis.workers[0].add(counted(requests))
    (name,) = await redis.names()
    value: Any = await redis.redis.get(name)
    assert b"ada" not in name
    assert value.isdigit()
    assert 60_000 < await redis.redis.pttl(name) <= 120_000
    another = RedisRateCounters("redis://127.0.0.1:1", redis.database)
    another.set_key(b"t" * 32)
    assert another._digest(SLOW) != redis.workers[0]._digest(SLOW), "nobody can compute it without the key"


@pytest.mark.server
async def test_budgets_are_spread_over_a_cluster(tmp_path: Path) -> None:
    cluster = await RedisCluster(tmp_path).join()
    workers = [RedisRateCounters(cluster.url, "test") for _ in range(2)]
    keys = [RateKey("user", str(n), 1) for n in range(100)]
    try:
        await workers[0].add(counted(dict.fromkeys(keys, 1)))
        assert await workers[1].add(counted(dict.fromkeys(keys, 1))) == dict.fromkeys(keys, use(2))
        sizes = [await node.redis.dbsize() for node in cluster.nodes]
        assert sum(sizes) == len(keys)
        assert all(sizes), "each server has some of the groups"
    finally:
        for worker in workers:
            await worker.close()
        await cluster.close()
