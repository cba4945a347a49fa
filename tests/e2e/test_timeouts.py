"""Timeouts of steps run exactly once, whoever lives."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.main import Backend
from config.settings import Settings
from models.database import Database
from tests.support.long_form import form
from tests.support.samples import flow_dict
from tests.support.serving import Serving, external
from tests.support.shorter_waits import SWEEPS

USERS = form("timeouts: states", short=60, long=150)
AFTER = 2.0


def timed_flow() -> dict[str, Any]:
    flow = flow_dict("timed")
    flow["steps"]["a"]["timeout"] = {"after": f"PT{AFTER:.0f}S", "transition": "go"}
    return flow


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    parts = Backend(settings)
    await parts.database.prepare()
    yield parts.database
    await parts.bus.stop()
    await parts.database.close()


async def start_all(serving: Serving) -> None:
    async with serving.http("root", "flow:admin") as http:
        assert (await http.post("/api/flows", json=timed_flow())).status_code in (201, 409)
        starts = [{"op": "reset", "userId": f"user-{n}", "flowId": "timed"} for n in range(USERS)]
        answer = (await http.post("/api/admin/states/batch", json={"operations": starts})).json()
        assert answer["succeeded"] == USERS
        assert all("timeoutAt" in result["state"] for result in answer["results"])


async def moved(database: Database) -> int:
    return await database.collection("flow_states").count_documents({"flowId": "timed", "step": "b"})


async def require_once(database: Database) -> None:
    """Every user was moved by one timer, recorded once."""
    states = database.collection("flow_states")
    async with asyncio.timeout(30):
        while await moved(database) < USERS or await states.count_documents({"outbox.0": {"$exists": True}}):
            await asyncio.sleep(0.1)
    records = await database.collection("flow_history").find({"flowId": "timed"}).to_list(None)
    by_timer = Counter(r["userId"] for r in records if r["actor"] == "timer")
    assert by_timer == {f"user-{n}": 1 for n in range(USERS)}
    assert sorted(r["revision"] for r in records) == [0] * USERS + [1] * USERS


async def holder(database: Database) -> int:
    """The id of the process that has, or had last, the lease."""
    lease = await database.collection("flow_leases").find_one({"_id": "background"})
    assert lease is not None
    return int(lease["holder"].split(":")[1])


@pytest.mark.timeout(120)
async def test_the_holder_of_the_lease_is_killed_at_the_due_time(
    settings: Settings, tmp_path: Path, database: Database
) -> None:
    serving = Serving("--workers", "3", env=external(settings), cwd=tmp_path, constants=SWEEPS)
    await start_all(serving)
    async with asyncio.timeout(20):
        while not await moved(database):
            await asyncio.sleep(0.01)
    victim = psutil.Process(await holder(database))
    assert victim in serving.workers()
    victim.send_signal(signal.SIGKILL)
    left = USERS - await moved(database)
    print(f"killed with {left} of {USERS} timeouts left to run")
    await require_once(database)
    async with asyncio.timeout(30):
        while await holder(database) == victim.pid:
            await asyncio.sleep(0.1)
    assert psutil.Process(await holder(database)) in serving.workers()
    serving.end()


async def test_a_timeout_outlives_a_restart(settings: Settings, tmp_path: Path, database: Database) -> None:
    serving = Serving(env=external(settings), cwd=tmp_path)
    await start_all(serving)
    serving.end(signal.SIGKILL)
    assert await moved(database) == 0
    await asyncio.sleep(AFTER)  # its moment passes while nobody runs
    again = Serving(env=external(settings), cwd=tmp_path)
    await require_once(database)
    again.end()
