"""A new version through one worker is served by the others: told over Redis, or after the cache time."""

import asyncio
import signal
from pathlib import Path

from pydantic import SecretStr

from config.settings import Settings
from tests.support.faults import RedisServer
from tests.support.serving import Serving, external, serving_together

ROUTE = "/api/flows/user-onboarding"


async def _serves(serving: Serving, version: int) -> None:
    """Wait until a worker answers with a version."""
    async with serving.http("ada") as http, asyncio.timeout(20):
        while (await http.get(ROUTE)).headers["flow-version"] != str(version):
            await asyncio.sleep(0.01)


async def _patch(serving: Serving, title: str) -> None:
    async with serving.http("root", "flow:admin") as admin:
        answer = await admin.patch(ROUTE, json={"title": title})
        assert answer.status_code == 200, answer.text


async def test_a_change_is_reported_to_the_other_workers(two_hosts: tuple[Serving, Serving]) -> None:
    first, second = two_hosts
    await asyncio.gather(_serves(first, 1), _serves(second, 1))
    for version in range(2, 8):
        await _patch(first if version % 2 else second, f"Version {version}")
        await asyncio.gather(_serves(first, version), _serves(second, version))


async def test_without_redis_a_change_is_seen_after_the_cache_time(
    settings: Settings, tmp_path: Path
) -> None:
    redis = RedisServer()
    own = settings.model_copy(update={"redis_url": SecretStr(redis.url)})
    env = {**external(own), "FLOW_DEFINITION_CACHE_MS": "1000"}
    first, second = serving_together(2, env=env, cwd=tmp_path)
    await asyncio.gather(_serves(first, 1), _serves(second, 1))
    redis.signal(signal.SIGSTOP)
    await _patch(first, "While Redis hangs")
    await _serves(second, 2)
    redis.kill()
    await _patch(second, "While there is none")
    await _serves(first, 3)
    for serving in (first, second):
        assert serving.end() == 0
