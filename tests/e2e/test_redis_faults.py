"""Outages of Redis, whole or for one worker: changes go on, and every client receives what it missed.

Workers report the outage; clients need no code for it.
"""

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from config.settings import Settings
from tests.support.faults import CuttableProxy, RedisServer
from tests.support.serving import Follower, Serving, external, serving_together

FLOW = "user-onboarding"
WAY = ("start", "continue", "save", "complete")


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.kill()


async def _ready(serving: Serving, status: int, seconds: float = 20) -> dict[str, str]:
    async with asyncio.timeout(seconds), serving.http("ada") as http:
        while True:
            answer = await http.get("/readyz", params={"strict": "true"})
            if answer.status_code == status:
                checks: dict[str, str] = answer.json()["checks"]
                return checks


def _on(settings: Settings, redis_url: str, cwd: Path) -> Serving:
    (serving,) = _together(1, settings, redis_url, cwd)
    return serving


def _together(count: int, settings: Settings, redis_url: str, cwd: Path) -> list[Serving]:
    own = settings.model_copy(update={"redis_url": SecretStr(redis_url)})
    return serving_together(count, env=external(own), cwd=cwd)


def _revisions(follower: Follower) -> list[int]:
    return [event["revision"] for event in follower.updates()]


async def test_redis_stops_and_returns(settings: Settings, tmp_path: Path, redis: RedisServer) -> None:
    first, second = _together(2, settings, redis.url, tmp_path)
    beside = await Follower().connect(first.url, first.token("ada"))
    follower = await Follower().connect(second.url, second.token("ada"))
    async with first.http("ada") as http, second.http("ada", "flow:admin") as other:
        assert (await http.post(f"/api/flow/{FLOW}/start")).status_code == 201
        await follower.until(lambda f: len(f.updates()) == 1)
        assert (await other.get(f"/api/flows/{FLOW}")).headers["flow-version"] == "1"

        redis.kill()
        assert (await _ready(first, 503))["redis"] == "BUS_UNAVAILABLE"
        assert (await _ready(second, 503))["mongodb"] == "ok"
        degraded = await http.get("/readyz")
        assert (degraded.status_code, degraded.json()["status"]) == (200, "degraded")
        assert degraded.json()["checks"] == {"mongodb": "ok", "redis": "BUS_UNAVAILABLE"}
        for transition in WAY[:2]:
            assert (await http.post(f"/api/flow/{FLOW}/transition/{transition}")).status_code == 200
        await beside.until(lambda f: _revisions(f) == [0, 1, 2])  # without Redis, from its own worker
        assert _revisions(follower) == [0]
        changed = await other.patch(f"/api/flows/{FLOW}", json={"title": "Changed meanwhile"})
        assert changed.status_code == 200

        redis.start()
        began = time.monotonic()
        for serving in (first, second):
            assert (await _ready(serving, 200))["redis"] == "ok"
        restored_after = time.monotonic() - began
        await follower.until(lambda f: _revisions(f) == [0, 1, 2])
        print(f"restored after {restored_after:.2f} s, delivered after {time.monotonic() - began:.2f} s")
        assert restored_after < 3
        async with asyncio.timeout(10):  # until the other worker reads the catalog again
            while (await http.get(f"/api/flows/{FLOW}")).headers["flow-version"] != "2":
                pass
        await http.post(f"/api/flow/{FLOW}/transition/{WAY[2]}")
        for each in (beside, follower):
            await each.until(lambda f: _revisions(f) == [0, 1, 2, 3])
            assert {event for event, _ in each.events} == {"flow-state-updated"}, "no code was needed"
            await each.close()
    for serving in (first, second):
        assert serving.end(signal.SIGTERM) == 0


@pytest.mark.long
async def test_a_worker_dies_while_redis_is_away(
    settings: Settings, tmp_path: Path, redis: RedisServer
) -> None:
    """Its replacement waits, and the other worker goes on."""
    own = settings.model_copy(update={"redis_url": SecretStr(redis.url)})
    serving = await asyncio.to_thread(lambda: Serving("--workers", "2", env=external(own), cwd=tmp_path))
    redis.kill()
    dead, other = serving.workers()
    dead.kill()
    async with asyncio.timeout(30):
        while len(serving.workers()) < 2 or dead in serving.workers():
            await asyncio.sleep(0.05)
    assert other in serving.workers()
    async with serving.http("ada") as http:
        assert (await http.post(f"/api/flow/{FLOW}/start")).status_code == 201
    redis.start()
    followers = [await Follower().connect(serving.url, serving.token("ada")) for _ in range(6)]
    await _ready(serving, 200)
    async with serving.http("ada") as http:
        assert (await http.post(f"/api/flow/{FLOW}/transition/start")).status_code == 200
    for follower in followers:
        await follower.until(lambda f: _revisions(f)[-1:] == [1])
        await follower.close()
    assert await asyncio.to_thread(serving.end) == 0
    assert "Traceback" not in serving.output


async def test_redis_hangs(settings: Settings, tmp_path: Path, redis: RedisServer) -> None:
    first, second = _together(2, settings, redis.url, tmp_path)
    follower = await Follower().connect(second.url, second.token("ada"))
    async with first.http("ada") as http:
        await http.post(f"/api/flow/{FLOW}/start")
        await follower.until(lambda f: len(f.updates()) == 1)
        redis.signal(signal.SIGSTOP)
        await _ready(second, 503)  # no connection broke: the heartbeat is missing
        assert (await http.post(f"/api/flow/{FLOW}/transition/start")).status_code == 200
        redis.signal(signal.SIGCONT)
        began = time.monotonic()
        await _ready(second, 200)
        assert time.monotonic() - began < 3
        await follower.until(lambda f: _revisions(f) == [0, 1])
        await http.post(f"/api/flow/{FLOW}/transition/continue")
        await follower.until(lambda f: _revisions(f) == [0, 1, 2])
    await follower.close()
    for serving in (first, second):
        serving.end()


async def test_one_worker_is_disconnected(settings: Settings, tmp_path: Path, redis: RedisServer) -> None:
    """Its commits reach the clients of the others once it is connected again."""
    proxy = await CuttableProxy(redis.port).mend()
    alone = await asyncio.to_thread(_on, settings, f"redis://127.0.0.1:{proxy.port}/0", tmp_path)
    other = _on(settings, redis.url, tmp_path)
    follower = await Follower().connect(other.url, other.token("ada"))
    async with alone.http("ada") as http:
        await http.post(f"/api/flow/{FLOW}/start")
        await follower.until(lambda f: len(f.updates()) == 1)
        await proxy.cut()
        for transition in WAY[:3]:
            assert (await http.post(f"/api/flow/{FLOW}/transition/{transition}")).status_code == 200
        assert (await _ready(other, 200))["redis"] == "ok", "its own connection works"
        await proxy.mend()
        await follower.until(lambda f: _revisions(f) == [0, 1, 2, 3])
    await follower.close()
    await asyncio.to_thread(alone.end)
    other.end()
    await proxy.cut()


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_one_worker_is_disconnected_for_long(
    settings: Settings, tmp_path: Path, redis: RedisServer
) -> None:
    """It cannot publish its commits, and has the lease of the sweep. Two others repair that.

    One of them noticed that it is lost, the other started later.
    """
    proxy = await CuttableProxy(redis.port).mend()
    alone = await asyncio.to_thread(_on, settings, f"redis://127.0.0.1:{proxy.port}/0", tmp_path)
    other = await asyncio.to_thread(_on, settings, redis.url, tmp_path)
    async with alone.http("ada") as http:
        followers = [await Follower().connect(other.url, other.token("ada"))]
        await http.post(f"/api/flow/{FLOW}/start")
        await followers[0].until(lambda f: _revisions(f) == [0])
        await proxy.cut()
        stranger = await asyncio.to_thread(_on, settings, redis.url, tmp_path)
        followers.append(await Follower().connect(stranger.url, stranger.token("ada")))
        await asyncio.to_thread(other.wait_for, "worker lost", 40)
        for revision, transition in enumerate(WAY[:2], 1):
            assert (await http.post(f"/api/flow/{FLOW}/transition/{transition}")).status_code == 200
            for follower in followers:
                await follower.until_revision(revision, 30)
        assert alone.popen.poll() is None, "it runs, and is still disconnected"
        assert (await http.post(f"/api/flow/{FLOW}/transition/{WAY[2]}")).status_code == 200
    alone.popen.kill()
    for follower in followers:
        await follower.until(lambda f: _revisions(f)[-1] == 3, 30)
        assert _revisions(follower) == sorted(set(_revisions(follower)))
        await follower.close()
    for serving in (alone, other, stranger):
        await asyncio.to_thread(serving.end)
    await proxy.cut()
