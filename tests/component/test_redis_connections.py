"""A connection to Redis that is closed under a command is an outage, whatever redis-py raises."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from realtime.redis.servers import OUTAGE, redis_servers
from tests.support.redis_kinds import RedisCluster

ROUNDS = 10


@pytest.mark.server
async def test_a_cluster_whose_servers_are_looked_up_under_commands(tmp_path: Path) -> None:
    cluster = await RedisCluster(tmp_path).join()
    servers = redis_servers(cluster.url)
    outcomes: Counter[str] = Counter()

    async def publish(n: int) -> None:
        try:
            await servers.publish([(f"channel {n}", b"x")])
            outcomes["published"] += 1
        except OUTAGE:
            outcomes["outage"] += 1

    try:
        for _ in range(ROUNDS):
            await asyncio.gather(*(publish(n) for n in range(50)), servers.refresh())
        assert outcomes.total() == 50 * ROUNDS
        assert outcomes["published"] > outcomes["outage"] > 0, "connections were closed under some commands"
    finally:
        await servers.close()
        await cluster.close()
