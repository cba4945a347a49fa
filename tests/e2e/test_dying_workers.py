"""A worker dies; nothing acknowledged is lost."""

import asyncio
import time

import psutil

from app.main import Backend
from config.settings import Settings
from tests.support.serving import Follower, Serving

FLOW = "user-onboarding"


async def test_what_a_dead_worker_committed_is_delivered_by_another(
    settings: Settings, two_workers: Serving
) -> None:
    """A service whose relay never runs is a worker that died right after its commits."""
    follower = await Follower().connect(two_workers.url, two_workers.token("ada"))
    dead = Backend(settings)
    await dead.database.prepare()
    await dead.service.as_trusted().start_flow("ada", FLOW)
    await dead.service.as_trusted().execute_transition("ada", FLOW, "start")
    await follower.until(lambda f: len(f.updates()) >= 2, seconds=10)
    assert [e["revision"] for e in follower.updates()] == [0, 1]
    states = dead.database.collection("flow_states")
    deadline = time.monotonic() + 5
    while await states.count_documents({"outbox.0": {"$exists": True}}):
        assert time.monotonic() < deadline
    assert await dead.database.collection("flow_history").count_documents({"userId": "ada"}) == 2
    await follower.close()
    await dead.bus.stop()
    await dead.database.close()


async def test_a_killed_worker_is_replaced_and_its_clients_lose_nothing(two_workers: Serving) -> None:
    before = {worker.pid for worker in two_workers.workers()}
    assert len(before) == 2
    async with two_workers.http("ada") as http:
        await http.post(f"/api/flow/{FLOW}/start")
    for worker in two_workers.workers()[:1]:
        worker.kill()
    acknowledged = 0
    for transition in ("start", "continue", "save", "complete"):
        async with two_workers.http("ada") as http:
            answer = await http.post(f"/api/flow/{FLOW}/transition/{transition}")
        assert answer.status_code == 200
        acknowledged = answer.json()["revision"]
    async with two_workers.http("ada") as http:
        history = (await http.get(f"/api/flow/{FLOW}/history")).json()["items"]
    assert [r["metadata"]["revision"] for r in history] == list(range(acknowledged + 1))
    deadline = time.monotonic() + 20
    while len({w.pid for w in two_workers.workers()} | before) < 3:
        assert time.monotonic() < deadline, "no worker took its place"
        await asyncio.sleep(0.1)
    await asyncio.to_thread(two_workers.wait_for, "worker died .*reason='killed by SIGKILL")
    await asyncio.to_thread(two_workers.wait_for, "worker started .*replaces=")


async def test_workers_end_with_the_process_that_they_are_forked_from_and_come_back(
    two_workers: Serving,
) -> None:
    before = {worker.pid: worker for worker in two_workers.workers()}
    parents = {worker.ppid() for worker in before.values()}
    assert two_workers.popen.pid not in parents, "they are forked from a process that serves nothing itself"
    for parent in parents:
        psutil.Process(parent).kill()
    deadline = time.monotonic() + 20
    while len({worker.pid for worker in two_workers.workers()} - set(before)) < len(before):
        assert time.monotonic() < deadline, "no workers took their places"
        await asyncio.sleep(0.1)
    _, alive = psutil.wait_procs(before.values(), timeout=10)
    assert not [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE]
    async with two_workers.http("grace") as http:
        assert (await http.post(f"/api/flow/{FLOW}/start")).status_code == 201
