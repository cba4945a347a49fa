"""Three services, written without anything of this project, through one flow, while everything is killed."""

import asyncio
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from tests.support.javascript import node
from tests.support.serving import Sender, Serving, external

FLOW = "service-checkout"
PROGRAMS = Path(__file__).parents[1] / "service_programs"
USERS = 200
CLIENTS = 8
SERVICES = ("user", "payment", "notification")
REVISIONS = range(4)


def definition() -> dict[str, Any]:
    ways = {
        "register": ("user", "verify", "pay"),
        "pay": ("payment", "paid", "notify"),
        "notify": ("notification", "sent", "done"),
    }
    steps: dict[str, Any] = {
        step: {
            "index": n,
            "step": step,
            "service": service,
            "transitions": {transition: {"transition": transition, "step": target}},
        }
        for n, (step, (service, transition, target)) in enumerate(ways.items())
    }
    steps["done"] = {"index": 3, "step": "done", "service": "shop", "transitions": {}}
    return {"flow": FLOW, "initialStep": "register", "steps": steps}


class Program:
    """A service as a process of its own, which can be killed and started again."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        assert line == b"ready\n", f"{self.name} printed {line!r}"

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)  # Node may run below a process that started it
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    async def restart(self) -> None:
        self.kill()
        await self.start()

    def events(self) -> list[dict[str, Any]]:
        """The events that it has seen. A line that a kill cut off is none: its event comes again."""
        found = []
        for line in self.log.read_text().splitlines() if self.log.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found


def unused_port() -> int:
    """A port that no connection gets by chance while the service that listens on it is away."""
    while True:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


async def programs(serving: Serving, settings: Settings, folder: Path, failing: Path) -> list[Program]:
    """Register the three services and start them."""
    assert settings.redis_url is not None
    port = unused_port()
    registrations: dict[str, dict[str, Any]] = {
        "user": {"url": f"http://127.0.0.1:{port}/events", "concurrency": 20},
        "payment": {},
        "notification": {"stream": True},
    }
    secrets, keys = {}, {}
    async with serving.http("root", "flow:admin") as http:
        created = await http.post("/api/flows", json=definition())
        assert created.status_code == 201, created.text
        for name, body in registrations.items():
            answer = await http.put(f"/api/admin/services/{name}", json=body)
            assert answer.status_code == 201, answer.text
            secrets[name] = answer.json()["secret"]
            answer = await http.post(f"/api/admin/services/{name}/keys", json={"name": "e2e"})
            assert answer.status_code == 201, answer.text
            keys[name] = answer.json()["key"]
        stream = (await http.get("/api/admin/services/notification")).json()["streamKey"]
    logs = {name: folder / f"{name}.jsonl" for name in SERVICES}
    redis_url = settings.redis_url.get_secret_value()
    user = [str(PROGRAMS / "user_service.mjs"), str(port), secrets["user"], str(logs["user"]), str(failing)]
    payment = [str(PROGRAMS / "payment_service.py"), serving.url, keys["payment"]]
    payment += [str(logs["payment"]), str(folder / "position")]
    notification = [str(PROGRAMS / "notification_service.py"), redis_url, stream, "service"]
    notification += [serving.url, keys["notification"], str(logs["notification"])]
    made = [
        Program("user", node(*user), logs["user"]),
        Program("payment", [sys.executable, *payment], logs["payment"]),
        Program("notification", [sys.executable, *notification], logs["notification"]),
    ]
    for program in made:
        await program.start()
    return made


async def until(condition: Callable[[], bool], seconds: float, complaint: Callable[[], str]) -> None:
    """Wait until files or another service say so; they have no events to await."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(complaint()) from None


@pytest.mark.long  # it waits for the claims of killed workers
@pytest.mark.timeout(400)
async def test_three_services_through_a_checkout(settings: Settings, tmp_path: Path) -> None:
    clear = settings.model_copy(update={"encryption_keys": None})  # entries of streams are sealed otherwise
    env = {**external(clear), "FLOW_SERVICES_PRIVATE_ADDRESSES": "true"}
    serving = Serving("--workers", "2", env=env, cwd=tmp_path)
    failing = tmp_path / "failing"
    running = await programs(serving, settings, tmp_path, failing)
    senders = [Sender(serving) for _ in range(CLIENTS)]
    users = iter([f"user-{n}" for n in range(USERS)])
    try:
        clients = [asyncio.create_task(start_all(sender, users)) for sender in senders]
        await disturb(serving, running, failing)
        await asyncio.gather(*clients)
        expected = {(f"user-{n}", revision) for n in range(USERS) for revision in REVISIONS}

        def seen(program: Program) -> set[tuple[str, int]]:
            return {(event["userId"], event["revision"]) for event in program.events()}

        def missing() -> str:
            return "; ".join(f"{p.name} lacks {sorted(expected - seen(p))[:10]}" for p in running)

        await until(lambda: all(expected <= seen(program) for program in running), 240, missing)
        await require_completed(serving)
        for program in running:
            check(program, expected)
    finally:
        for program in running:
            program.kill()
        for sender in senders:
            await sender.close()
        serving.end()


async def start_all(sender: Sender, users: Any) -> None:
    for user in users:
        await sender.post(user, f"/api/flow/{FLOW}/start", 0, {"payload": {"cart": [user]}})
        await asyncio.sleep(0.02)  # spreads the starts over the disturbances


async def disturb(serving: Serving, running: Sequence[Program], failing: Path) -> None:
    """Kill and restart each worker and each service once; the user service fails for a while."""
    user = running[0]
    await until(lambda: len(user.events()) > 3, 60, lambda: "the user service got nothing")
    failing.touch()
    first, *_ = serving.workers()
    first.send_signal(signal.SIGKILL)
    before = {each.pid for each in serving.workers()} - {first.pid}
    await asyncio.sleep(1.0)  # the while for which it fails
    failing.unlink()
    for program in running:
        await program.restart()
    await until(
        lambda: len({each.pid for each in serving.workers()} - {first.pid}) >= 2, 60, lambda: serving.output
    )
    for pid in before:
        os.kill(pid, signal.SIGKILL)


async def require_completed(serving: Serving) -> None:
    found = 0
    after: dict[str, str] = {}
    async with serving.http("root", "flow:admin") as http:
        while True:
            params = {"flowId": FLOW, "status": "completed", "limit": "200", **after}
            page = (await http.get("/api/admin/states", params=params)).json()
            found += len(page["items"])
            if "next" not in page:
                break
            after = {"after": page["next"]}
    assert found == USERS


def check(program: Program, expected: set[tuple[str, int]]) -> None:
    """Each event came at least once, its repeats have its id, and the first ones of a state came in order."""
    events = program.events()
    ids: dict[tuple[str, int], set[str]] = defaultdict(set)
    order: dict[str, list[int]] = defaultdict(list)
    for event in events:
        place = (event["userId"], event["revision"])
        if place not in ids:
            order[event["userId"]].append(event["revision"])
        ids[place].add(event["id"])
    assert set(ids) == expected
    assert all(len(found) == 1 for found in ids.values()), "a repeat has the same id"
    assert len(set(itertools.chain(*ids.values()))) == len(expected), "different events have different ids"
    assert all(found == sorted(found) for found in order.values()), "in order for each state"
    print(f"{program.name}: {len(expected)} events, {len(events) - len(expected)} repeats")
