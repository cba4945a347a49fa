"""Transitions a second, their times, and what each costs every process: the service and the floor."""

import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
import pymongo

from app.auth.tokens import issue_token
from app.process.embedded import EmbeddedServers
from app.process.server_process import free_port
from config.settings import Settings

USERS = 2000
FLOW = {
    "flow": "counter",
    "initialStep": "a",
    "steps": {
        "a": {
            "index": 0,
            "step": "a",
            "service": "bench",
            "transitions": {"again": {"transition": "again", "step": "a"}},
        }
    },
}


class Result(msgspec.Struct):
    """Of one round. CPU in microseconds a transition."""

    rate: float
    p50: float
    p99: float
    cpu: dict[str, float]
    commands: float


class Subject:
    """A server under test, one worker, on the shared database and Redis."""

    def __init__(
        self, name: str, command: list[str], port: int, env: dict[str, str], cwd: str, users: int
    ) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            command, env={**os.environ, **env}, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.tokens = {
            f"u{n}": issue_token(env["FLOW_JWT_SECRET"], f"u{n}", ttl=timedelta(hours=2))
            for n in range(users)
        }

    async def post(self, http: aiohttp.ClientSession, user: str, path: str, body: Any) -> None:
        headers = {"Authorization": f"Bearer {self.tokens[user]}"}
        async with http.post(f"{self.url}/api/flow/counter/{path}", json=body, headers=headers) as answer:
            raw = await answer.read()
            if answer.status not in (200, 201):
                raise RuntimeError(f"{self.name} answers {answer.status}: {raw[:200]!r}")


async def in_flight(
    http: aiohttp.ClientSession, subject: Subject, users: list[str], n: int, path: str, body: Any
) -> list[float]:
    """Send one request for each of ``users``, ``n`` at a time; their times in milliseconds."""
    times: list[float] = []
    queue = iter(users)

    async def sender() -> None:
        for user in queue:
            began = time.perf_counter()
            await subject.post(http, user, path, body)
            times.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(sender() for _ in range(n)))
    return times


class Meter:
    """CPU of the processes, and commands of the database."""

    def __init__(self, servers: EmbeddedServers, mongo_url: str) -> None:
        self._servers = {name: psutil.Process(server.pid) for name, server in servers.servers.items()}
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(mongo_url)
        self._admin = client.admin

    def read(self, subject: Subject) -> tuple[dict[str, float], int]:
        processes = {"worker": psutil.Process(subject.process.pid), **self._servers}
        times = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
        counted = self._admin.command("serverStatus").get("opcounters", {})
        return times, sum(counted.get(kind, 0) for kind in ("insert", "query", "update", "delete"))


async def measure(subject: Subject, meter: Meter, n: int, requests: int, seed: int) -> Result:
    """One round: distinct users, so that no two requests are for one state at a time."""
    chance = random.Random(seed)
    everyone = list(subject.tokens)
    users: list[str] = []
    while len(users) < requests:
        users += chance.sample(everyone, min(len(everyone), requests))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        await in_flight(http, subject, users[:100], n, "transition/again", {"payload": {"n": 0}})
        await asyncio.sleep(0.5)
        cpu, commands = meter.read(subject)
        began = time.perf_counter()
        times = await in_flight(
            http, subject, users[:requests], n, "transition/again", {"payload": {"n": seed, "note": "x" * 40}}
        )
        lasted = time.perf_counter() - began
        await asyncio.sleep(1.0)  # the relay's work belongs to the transitions
        cpu_after, commands_after = meter.read(subject)
    cuts = statistics.quantiles(times, n=100)
    return Result(
        rate=requests / lasted,
        p50=cuts[49],
        p99=cuts[98],
        cpu={name: (cpu_after[name] - cpu[name]) / requests * 1e6 for name in cpu},
        commands=(commands_after - commands) / requests,
    )


@contextmanager
def subjects(
    servers: EmbeddedServers, settings: Settings, folder: str, users: int = USERS
) -> Iterator[list[Subject]]:
    """Both servers, serving; with tokens of as many users."""
    assert settings.mongo_url is not None
    assert settings.redis_url is not None
    assert settings.jwt_secret is not None
    env = {
        "FLOW_MONGO_URL": settings.mongo_url.get_secret_value(),
        "FLOW_REDIS_URL": settings.redis_url.get_secret_value(),
        "FLOW_USER_CHANGES_PER_MINUTE": "1000000",
        "FLOW_JWT_SECRET": settings.jwt_secret.get_secret_value(),
        "FLOW_MONGO_DATABASE": "bench_service",
        "FLOW_DEFINITIONS": "database,file:config/flows",
        "FLOW_LOG_LEVEL": "warning",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    flows = Path(folder) / "config" / "flows"
    flows.mkdir(parents=True)
    (flows / "counter.json").write_bytes(msgspec.json.encode(FLOW))
    here = Path(sys.executable)
    ports = [free_port(), free_port()]
    quiet = ["--log-level", "warning", "--no-access-log", "--loop", "uvloop"]
    started = [
        Subject(
            "floor",
            [str(here), "-m", "uvicorn", "bench.floor:app", "--port", str(ports[0]), *quiet],
            ports[0],
            env,
            folder,
            users,
        ),
        Subject(
            "service",
            [str(here.with_name("server-flow")), "serve", "--port", str(ports[1])],
            ports[1],
            env,
            folder,
            users,
        ),
    ]
    try:
        yield started
    finally:
        for subject in started:
            subject.process.terminate()
            subject.process.wait(20)


async def run(requests: int, rounds: int) -> None:
    """Print a table, and the ratio of the medians."""
    with tempfile.TemporaryDirectory() as folder:
        servers = EmbeddedServers(Path(folder) / "data")
        settings = servers.start(Settings(_env_file=None))
        try:
            with subjects(servers, settings, folder) as both:
                assert settings.mongo_url
                meter = Meter(servers, settings.mongo_url.get_secret_value())
                async with aiohttp.ClientSession() as http:
                    for subject in both:
                        await ready(http, subject)
                        await in_flight(http, subject, list(subject.tokens), 16, "start", {})
                for n in (1, 64):
                    await _compare(both, meter, n, requests, rounds)
        finally:
            servers.stop()


async def ready(http: aiohttp.ClientSession, subject: Subject) -> None:
    """Wait until it answers."""
    for _ in range(200):
        try:
            await subject.post(http, "u0", "start", {})
        except (aiohttp.ClientError, OSError):
            await asyncio.sleep(0.1)
        else:
            return
    raise RuntimeError(f"{subject.name} does not start")


async def _compare(both: list[Subject], meter: Meter, n: int, requests: int, rounds: int) -> None:
    print(f"\n{n} in flight, {requests} transitions over {USERS} users, medians of {rounds} rounds in turn")
    results: dict[str, list[Result]] = {subject.name: [] for subject in both}
    for seed in range(rounds):
        for subject in both:
            results[subject.name].append(await measure(subject, meter, n, requests, seed))
            print(".", end="", flush=True)
    print()
    rows = {}
    for name, found in results.items():
        rows[name] = {
            "transitions/s": statistics.median(r.rate for r in found),
            "p50 ms": statistics.median(r.p50 for r in found),
            "p99 ms": statistics.median(r.p99 for r in found),
            **{f"{p} us": statistics.median(r.cpu[p] for r in found) for p in found[0].cpu},
            "commands": statistics.median(r.commands for r in found),
        }
    print(f"{'':>16}{'floor':>12}{'service':>12}{'ratio':>8}")
    for figure, floor in rows["floor"].items():
        service = rows["service"][figure]
        ratio = f"{service / floor:8.2f}" if floor else f"{'-':>8}"
        print(f"{figure:>16}{floor:12.2f}{service:12.2f}{ratio}")
