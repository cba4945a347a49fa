"""Parts that benchmarks share: servers under test, their clients, meters, and the report."""

import asyncio
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_bytes
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


class Report:
    """The figures of one benchmark, as JSON for other programs; tables for people are printed."""

    def __init__(self, benchmark: str) -> None:
        self._benchmark = benchmark
        self._began = datetime.now(UTC)
        self._load = os.getloadavg()[0]
        self._figures: list[dict[str, Any]] = []

    def add(self, part: str, **figures: Any) -> None:
        """Add the figures of one row; ``part`` names it."""
        self._figures.append({"part": part, **figures})

    def write(self, file: Path) -> None:
        """Write the figures, with the time and the machine."""
        whole = {
            "benchmark": self._benchmark,
            "at": self._began.isoformat(timespec="seconds"),
            "machine": {
                "cores": os.cpu_count(),
                "system": f"{platform.system()} {platform.machine()}",
                "python": platform.python_version(),
                "loadAtTheStart": round(self._load, 2),
            },
            "figures": self._figures,
        }
        file.write_bytes(msgspec.json.format(msgspec.json.encode(whole)) + b"\n")


class Result(msgspec.Struct):
    """The result of one round. Times in milliseconds, CPU in microseconds a transition."""

    rate: float
    p50: float
    p99: float
    cpu: dict[str, float]
    commands: float


def medians(results: Sequence[Result]) -> dict[str, float]:
    """Return the medians of rounds, by figure."""
    return {
        "transitions/s": statistics.median(r.rate for r in results),
        "p50 ms": statistics.median(r.p50 for r in results),
        "p99 ms": statistics.median(r.p99 for r in results),
        **{f"{name} us": statistics.median(r.cpu[name] for r in results) for name in results[0].cpu},
        "commands": statistics.median(r.commands for r in results),
    }


def print_comparison(
    report: Report,
    part: str,
    base: Sequence[Result],
    other: Sequence[Result],
    names: tuple[str, str] = ("floor", "service"),
) -> None:
    """Print the medians of both and the ratio of the second to the first, and add them to the report."""
    of_base, of_other = medians(base), medians(other)
    print(f"{'':>20}{names[0]:>12}{names[1]:>12}{'ratio':>8}")
    for figure, value in of_base.items():
        ratio = of_other[figure] / value if value else None
        shown = f"{ratio:8.2f}" if ratio is not None else f"{'-':>8}"
        print(f"{figure:>20}{value:12.2f}{of_other[figure]:12.2f}{shown}", flush=True)
        report.add(part, figure=figure, **{names[0]: value, names[1]: of_other[figure]}, ratio=ratio)


@contextmanager
def embedded() -> Iterator[tuple[EmbeddedServers, Settings, str]]:
    """Run the embedded servers in a new folder: they, the settings that name them, and the folder."""
    with tempfile.TemporaryDirectory() as folder:
        servers = EmbeddedServers(Path(folder) / "data")
        try:
            yield servers, servers.start(Settings(_env_file=None)), folder
        finally:
            servers.stop()


def database_url(settings: Settings) -> str:
    """Return the URL of the database."""
    assert settings.mongo_url is not None
    return settings.mongo_url.get_secret_value()


def environment(settings: Settings, database: str) -> dict[str, str]:
    """Return the variables of a service on these servers, which reads the flows of its folder."""
    assert settings.redis_url is not None
    assert settings.jwt_secret is not None
    return {
        "FLOW_MONGO_URL": database_url(settings),
        "FLOW_REDIS_URL": settings.redis_url.get_secret_value(),
        "FLOW_JWT_SECRET": settings.jwt_secret.get_secret_value(),
        "FLOW_MONGO_DATABASE": database,
        "FLOW_DEFINITIONS": "database,file:config/flows",
        "FLOW_USER_CHANGES_PER_MINUTE": "1000000",
        "FLOW_USER_REQUESTS_PER_MINUTE": "1000000",
        "FLOW_ADDRESS_REQUESTS_PER_MINUTE": "1000000",
        "FLOW_ADDRESS_CONNECTIONS": "100000",
        "FLOW_LOG_LEVEL": "warning",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }


def write_flow(folder: str) -> None:
    """Write the flow of the benchmarks where a service in the folder reads it."""
    flows = Path(folder) / "config" / "flows"
    flows.mkdir(parents=True)
    (flows / "counter.json").write_bytes(msgspec.json.encode(FLOW))


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
        """Send a request of a user; RuntimeError unless it succeeds."""
        headers = {"Authorization": f"Bearer {self.tokens[user]}"}
        async with http.post(f"{self.url}/api/flow/counter/{path}", json=body, headers=headers) as answer:
            raw = await answer.read()
            if answer.status not in (200, 201):
                raise RuntimeError(f"{self.name} answers {answer.status}: {raw[:200]!r}")

    async def post_all(
        self, http: aiohttp.ClientSession, users: Sequence[str], n: int, path: str, body: Any
    ) -> list[float]:
        """Send one request for each of ``users``, ``n`` at a time; their times in milliseconds."""
        return await in_flight(users, n, lambda user: self.post(http, user, path, body))

    async def ready(self, http: aiohttp.ClientSession) -> None:
        """Wait until it answers."""
        for _ in range(200):
            try:
                await self.post(http, "u0", "start", {})
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(0.1)
            else:
                return
        raise RuntimeError(f"{self.name} does not start")


async def in_flight(users: Sequence[str], n: int, send: Callable[[str], Awaitable[object]]) -> list[float]:
    """Send a request for each user, ``n`` at a time, and return their durations in milliseconds."""
    times: list[float] = []
    queue = iter(users)

    async def sender() -> None:
        for user in queue:
            began = time.perf_counter()
            await send(user)
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
        """Return the CPU seconds of each process, and the number of commands."""
        processes = {"worker": psutil.Process(subject.process.pid), **self._servers}
        times = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
        counted = self._admin.command("serverStatus").get("opcounters", {})
        return times, sum(counted.get(kind, 0) for kind in ("insert", "query", "update", "delete"))


async def measure(subject: Subject, meter: Meter, n: int, requests: int, seed: int) -> Result:
    """Measure one round: distinct users, so that no two requests are for one state at a time."""
    chance = random.Random(seed)
    everyone = list(subject.tokens)
    users: list[str] = []
    while len(users) < requests:
        users += chance.sample(everyone, min(len(everyone), requests))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        await subject.post_all(http, users[:100], n, "transition/again", {"payload": {"n": 0}})
        await asyncio.sleep(0.5)
        cpu, commands = meter.read(subject)
        began = time.perf_counter()
        payload = {"payload": {"n": seed, "note": "x" * 40}}
        times = await subject.post_all(http, users[:requests], n, "transition/again", payload)
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
    settings: Settings, folder: str, users: int = USERS, *, plain: bool = False
) -> Iterator[list[Subject]]:
    """Serve the floor and the service, with tokens of as many users.

    Args:
        settings: The settings of the servers.
        folder: The working directory.
        users: The number of users.
        plain: Serve a third one too, the service without encryption at rest.
    """
    key = {"FLOW_ENCRYPTION_KEYS": b64encode(token_bytes(32)).decode()}
    env = environment(settings, "bench_service")
    write_flow(folder)
    here = Path(sys.executable)
    ports = [free_port(), free_port(), free_port()]
    quiet = ["--log-level", "warning", "--no-access-log", "--loop", "uvloop"]
    floor = [str(here), "-m", "uvicorn", "bench.floor:app", "--port", str(ports[0]), *quiet]
    service = [str(here.with_name("server-flow")), "serve", "--port"]
    started = [
        Subject("floor", floor, ports[0], env, folder, users),
        Subject("service", [*service, str(ports[1])], ports[1], env | key, folder, users),
    ]
    if plain:
        without = environment(settings, "bench_plain")
        started.append(Subject("plain", [*service, str(ports[2])], ports[2], without, folder, users))
    try:
        yield started
    finally:
        for subject in started:
            subject.process.terminate()
            subject.process.wait(20)
