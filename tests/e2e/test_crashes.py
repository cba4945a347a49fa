"""Workers are killed at random while users walk: nothing acknowledged is lost, doubled or out of order."""

import asyncio
import random
import signal
from collections import Counter
from pathlib import Path

import psutil
import pytest

from app.main import Backend
from config.settings import Settings
from tests.support.long_form import form
from tests.support.serving import Sender, Serving, external
from tests.support.shorter_waits import SWEEPS

FLOW = "user-onboarding"
WAYS = [["start", "continue", "save", "complete"], ["start", "skip", "complete"]]
USERS = form("crash test: users", short=30, long=500)
CLIENTS = 8
KILLS = form("crash test: kills", short=3, long=21)
"""Fewer than the deaths of three workers in a row after which the supervisor gives up (24)."""
SEED = 20_261_122


async def walk(sender: Sender, user: str, way: list[str]) -> None:
    await sender.post(user, f"/api/flow/{FLOW}/start", 0, {"payload": {"0": user}})
    for revision, transition in enumerate(way, 1):
        body = {"payload": {str(revision): user}}
        await sender.post(user, f"/api/flow/{FLOW}/transition/{transition}", revision, body)


@pytest.mark.timeout(600)
async def test_kill_9_at_random_points(settings: Settings, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    serving = Serving("--workers", "3", env=external(settings), cwd=tmp_path, constants=SWEEPS)
    users = iter(enumerate((f"user-{n}", WAYS[n % 2]) for n in range(USERS)))
    walkers = [Sender(serving) for _ in range(CLIENTS)]

    kills = announced = 0
    announcement = asyncio.Condition()

    async def client(walker: Sender) -> None:
        for n, (user, way) in users:
            async with announcement:  # the kills are spread over the whole walk, however fast it is
                while announced < KILLS * n // USERS:
                    await announcement.wait()
            await walk(walker, user, way)

    clients = [asyncio.create_task(client(walker)) for walker in walkers]
    while kills < KILLS and not all(task.done() for task in clients):
        await asyncio.sleep(chance.uniform(0.02, 0.3))
        victims = serving.workers()
        if len(victims) > 1:
            async with announcement:
                announced = kills + 1
                announcement.notify_all()
            await asyncio.sleep(chance.uniform(0, 0.05))  # the clients go on, and are met by the kill
            try:
                chance.choice(victims).send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:  # it died of the kill before, and was still listed
                continue
            kills += 1
    await asyncio.gather(*clients)
    for walker in walkers:
        await walker.close()
    assert kills >= KILLS - 1

    parts = Backend(settings)
    await parts.database.prepare()
    states, history = (parts.database.collection(name) for name in ("flow_states", "flow_history"))
    async with asyncio.timeout(30):  # the sweep of a living worker delivers what dead ones left
        while await states.count_documents({"outbox.0": {"$exists": True}}):
            await asyncio.sleep(0.1)
    completed = await states.count_documents({"status": "completed"})
    records = await history.find({"success": True}).to_list(None)
    found = Counter((r["userId"], r["epoch"], r["revision"]) for r in records)
    expected = {(f"user-{n}", revision) for n in range(USERS) for revision in range(len(WAYS[n % 2]) + 1)}
    lost = expected - {(user, revision) for user, _, revision in found}
    doubled = [place for place, count in found.items() if count > 1]
    strangers = {(user, revision) for user, _, revision in found} - expected
    repeats = sum(walker.repeats for walker in walkers)
    print(f"kills {kills}, requests repeated {repeats}, lost {len(lost)}, doubled {len(doubled)}")
    assert (completed, lost, doubled, strangers) == (USERS, set(), [], set())
    assert len(found) == len(expected), "one epoch a user"
    assert repeats > 0, "the kills were felt"
    refused = await history.count_documents({"success": False})
    assert refused == 0
    await parts.bus.stop()
    await parts.database.close()
    serving.end()
