"""The storm: 300 clients in Python and Node follow 100 users while 3,000 transitions run on three workers,
Redis stops twice and a worker is killed. In the end every client holds what MongoDB holds, was never
shown anything older than before, and every gap was repaired."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.auth.tokens import issue_token
from app.main import Backend
from config.settings import Settings
from tests.support.faults import RedisServer
from tests.support.http import http_client
from tests.support.javascript import FOLDER, node
from tests.support.long_form import form
from tests.support.samples import flow_dict
from tests.support.serving import Sender, Serving, external

FLOW = "loop"
USERS = form("storm: users", short=10, long=100)
CLIENTS = form("storm: clients of each language", short=15, long=150)
"""Of each language: every user has three devices."""
TRANSITIONS = form("storm: transitions", short=300, long=3000)
SENDERS = 6
REDIS_AWAY_SECONDS = form("storm: seconds without Redis, twice", short=2, long=5)
LOOP = ("go", "back")
"""A cycle, so that a state can go on for as long as is wanted."""

ROOT = Path(__file__).parents[2]


class Swarm:
    """A process with many clients."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process

    @classmethod
    async def start(cls, name: str, command: Sequence[str], cwd: Path, order: dict[str, Any]) -> "Swarm":
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )
        swarm = cls(name, process)
        await swarm._say(json.dumps(order))
        assert await swarm._answer(60) == {"level": order["clients"]}
        return swarm

    async def report(self) -> list[dict[str, Any]]:
        """The report of each client so far."""
        await self._say("report")
        clients: list[dict[str, Any]] = (await self._answer(20))["clients"]
        return clients

    async def end(self) -> None:
        await self._say("end")
        assert await asyncio.wait_for(self._process.wait(), 20) == 0

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    async def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    async def _answer(self, seconds: float) -> Any:
        assert self._process.stdout is not None
        return json.loads(await asyncio.wait_for(self._process.stdout.readline(), seconds))


async def move(sender: Sender, user: str, revision: int) -> None:
    """Make change ``revision`` of a user."""
    transition = LOOP[(revision - 1) % len(LOOP)]
    await sender.post(user, f"/api/flow/{FLOW}/transition/{transition}", revision, {})


@pytest.mark.timeout(400)
async def test_the_storm(settings: Settings, node_packages: Path, tmp_path: Path) -> None:
    redis = RedisServer()
    own = settings.model_copy(update={"redis_url": SecretStr(redis.url)})
    serving = await asyncio.to_thread(lambda: Serving("--workers", "3", env=external(own), cwd=tmp_path))
    users = [f"user-{n}" for n in range(USERS)]
    async with serving.http("root", "flow:admin") as admin:
        assert (await admin.post("/api/flows", json=flow_dict(FLOW))).status_code == 201
    async with http_client(serving.url) as http:
        for user in users:
            headers = {"Authorization": f"Bearer {serving.token(user)}"}
            assert (await http.post(f"/api/flow/{FLOW}/start", headers=headers)).status_code == 201
    tokens = {user: issue_token(serving.secret, user, ttl=timedelta(hours=1)) for user in users}
    order = {"url": serving.url, "flow": FLOW, "tokens": tokens, "clients": CLIENTS}
    swarms = await asyncio.gather(
        Swarm.start("Python", [sys.executable, "-m", "tests.support.swarm"], ROOT, order),
        Swarm.start("Node", node("swarm.mjs"), FOLDER, order),
    )
    senders = [Sender(serving) for _ in range(SENDERS)]
    try:
        began = time.monotonic()
        moves = iter([(user, n + 1) for n in range(TRANSITIONS // USERS) for user in users])
        done = begun = 0
        allowed = 0.0
        progressed = asyncio.Condition()

        async def send(sender: Sender) -> None:
            nonlocal done, begun
            for user, revision in moves:
                begun += 1
                number = begun
                async with progressed:
                    while number > TRANSITIONS * allowed:
                        await progressed.wait()
                # The next change of a user waits for the one before, whoever makes it.
                await locks[user].acquire()
                try:
                    await move(sender, user, revision)
                finally:
                    locks[user].release()
                async with progressed:
                    done += 1
                    progressed.notify_all()

        locks = {user: asyncio.Lock() for user in users}

        async def allow(part: float) -> None:
            """Let the senders go on: however fast they are, there are changes before and after each fault."""
            nonlocal allowed
            async with progressed:
                allowed = part
                progressed.notify_all()

        async def reached(part: float) -> None:
            async with progressed:
                await progressed.wait_for(lambda: done >= TRANSITIONS * part)

        async def storms() -> None:
            for before, away, after in ((0.15, 0.4, 0.5), (0.65, 0.85, 1.0)):
                await allow(before)
                await reached(before)
                redis.kill()
                await allow(away)
                await asyncio.sleep(REDIS_AWAY_SECONDS)  # this long it is away
                redis.start()
                await allow(after)
                if after < 1:
                    await reached(after)
                    serving.workers()[0].send_signal(signal.SIGKILL)

        await asyncio.gather(storms(), *(send(sender) for sender in senders))
        lasted = time.monotonic() - began
        expected = await _stored(settings)
        assert {state["revision"] for state in expected.values()} == {TRANSITIONS // USERS}

        reports: dict[str, list[dict[str, Any]]] = {}
        async with asyncio.timeout(30):
            for swarm in swarms:
                while not _is_level(reports.setdefault(swarm.name, await swarm.report()), expected):
                    reports[swarm.name] = await swarm.report()
        print(f"\n{TRANSITIONS} transitions in {lasted:.1f} s, repeated {sum(s.repeats for s in senders)}")
        for name, clients in reports.items():
            _check(name, clients, expected)
        for swarm in swarms:
            await swarm.end()
    finally:
        for swarm in swarms:
            swarm.kill()
        for sender in senders:
            await sender.close()
        await asyncio.to_thread(serving.end)
        redis.kill()


async def _stored(settings: Settings) -> dict[str, Any]:
    """Where each user stands in the database."""
    database = Backend(settings).database
    documents = await database.collection("flow_states").find({}).to_list(None)
    await database.close()
    return {d["userId"]: {name: d[name] for name in ("epoch", "revision", "step")} for d in documents}


def _is_level(clients: list[dict[str, Any]], expected: dict[str, Any]) -> bool:
    return all(client["held"] == expected[client["user"]] for client in clients)


def _check(name: str, clients: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    behind = [client for client in clients if client["held"] != expected[client["user"]]]
    not_repaired = [client for client in clients if not client["level"]]
    stats = [client["stats"] for client in clients]
    longest = max(each["longestRepair"] for each in stats)
    total = {key: sum(each[key] for each in stats) for key in ("gaps", "syncs", "repaired", "resets")}
    print(
        f"{name}: {len(clients)} clients, lost {len(behind)}, gaps {total['gaps']}, syncs {total['syncs']}, "
        f"repaired {total['repaired']} missed changes, longest {longest:.0f} ms"
    )
    assert len(clients) == CLIENTS
    assert behind == not_repaired == []
    assert [client for client in clients if client["fell"]] == [], "revisions only upwards"
    assert [client["error"] for client in clients if client["error"]] == []
    assert total["resets"] == 0, "every gap was repaired change by change"
    assert total["repaired"] > 0, "the storm was felt"
    shown = {client["shown"] for client in clients}
    assert shown == {TRANSITIONS // USERS + 1}, "every client was shown every change"
