"""Deliveries to services: how many in a second, what each costs, and what a dead receiver costs others."""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime

import aiohttp
import psutil
from msgspec import UNSET, structs

from app.contracts.integration import Integration
from app.main import Backend
from app.process.embedded import EmbeddedServers
from app.process.server_process import free_port
from app.services import FlowService
from app.services.integrations.secrets import new_secret
from bench.common import FLOW, Report, embedded
from config.settings import Settings

MANY = 50
IN_FLIGHT = 64
HEALTHY = 10
WAITING = 10_000
"""Events that wait for the dead receiver, each of a state of its own."""
POLL_SECONDS = 0.02


class Receivers:
    """The receiver process, its connections, and the services that it stands for."""

    def __init__(self, port: int, process: subprocess.Popen[str], http: aiohttp.ClientSession) -> None:
        self.port = port
        self.process = process
        self._http = http

    async def counts(self) -> dict[str, dict[str, int]]:
        """Return the counts by path."""
        async with self._http.get(f"http://127.0.0.1:{self.port}/") as answer:
            found: dict[str, dict[str, int]] = await answer.json()
            return found

    async def until(self, paths: list[str], events: int) -> None:
        """Wait until each path has so many events."""
        while True:
            counts = await self.counts()
            if all(counts.get(path, {}).get("events", 0) >= events for path in paths):
                return
            await asyncio.sleep(POLL_SECONDS)


class Cost:
    """CPU of this process and of the database since the beginning."""

    def __init__(self, database: psutil.Process) -> None:
        self._processes = {"worker": psutil.Process(), "database": database}
        self._before = self._used()
        self._began = time.perf_counter()

    def _used(self) -> dict[str, float]:
        return {name: sum(each.cpu_times()[:2]) for name, each in self._processes.items()}

    def of(self, number: int) -> dict[str, float]:
        """Return the number in a second, and the CPU of each in microseconds."""
        used = self._used()
        return {
            "per_second": number / (time.perf_counter() - self._began),
            **{f"{name}_us": (used[name] - self._before[name]) / number * 1e6 for name in used},
        }


@contextmanager
def _process(port: int = 0) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "bench.receiver", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline()), process
        finally:
            process.kill()


@asynccontextmanager
async def receivers(port: int = 0) -> AsyncIterator[Receivers]:
    """Run a receiver until the end of the block."""
    with _process(port) as (bound, process):
        async with aiohttp.ClientSession() as http:
            yield Receivers(bound, process, http)


async def run(report: Report, transitions: int, rounds: int) -> None:
    """Print the figures."""
    with embedded() as (servers, base, _):
        await _live(report, servers, base, transitions, rounds)
        await _rates(report, servers, base, transitions, rounds)
        await _dead_receiver(report, servers, base, transitions, rounds)


@asynccontextmanager
async def _service(
    servers: EmbeddedServers, base: Settings, name: str
) -> AsyncIterator[tuple[FlowService, psutil.Process]]:
    own = {
        "mongo_database": f"bench_deliveries_{name}",
        "user_changes_per_minute": 1_000_000,
        "services_private_addresses": "127.0.0.0/8",
    }
    async with Backend(base.model_copy(update=own)).running() as service:
        await service.create_flow({**FLOW})
        yield service, psutil.Process(servers.servers["mongodb"].pid)


async def _register(service: FlowService, aliases: list[str], port: int) -> None:
    now = datetime.now(UTC)
    for alias in aliases:
        integration = Integration(
            alias=alias,
            url=f"http://127.0.0.1:{port}/{alias}",
            flows=("counter",),
            concurrency=20,
            secrets=(new_secret(now),),
            registered_at=now,
            updated_at=now,
        )
        assert await service.integrations.registry.add(integration)
    await service.integrations.registry.settle()


async def _enable(service: FlowService, aliases: list[str], *, enabled: bool) -> None:
    def change(found: Integration) -> Integration:
        return structs.replace(found, enabled=enabled, backlog=UNSET)

    for alias in aliases:
        await service.integrations.registry.change(alias, change)
    await service.integrations.registry.settle()


async def _together(count: int, work: Callable[[int], Awaitable[object]]) -> None:
    queue = iter(range(count))

    async def take() -> None:
        for n in queue:
            await work(n)

    await asyncio.gather(*(take() for _ in range(IN_FLIGHT)))


async def _transitions(service: FlowService, prefix: str, count: int, users: int) -> None:
    """Start states where there are none, and run transitions."""
    flows = service.as_trusted()

    async def one(n: int) -> None:
        await flows.execute_transition(f"{prefix}-{n % users}", "counter", "again")

    await _together(count, one)
    await service.background.relay.drain(60)


async def _start(service: FlowService, prefix: str, users: int) -> None:
    flows = service.as_trusted()
    await _together(users, lambda n: flows.start_flow(f"{prefix}-{n}", "counter"))
    await service.background.relay.drain(60)


async def _live(
    report: Report, servers: EmbeddedServers, base: Settings, transitions: int, rounds: int
) -> None:
    """Measure transitions without services, and with services that receive each of them at once."""
    print(f"{transitions} transitions of 1000 users, and their deliveries, medians of {rounds} rounds")
    print(f"{'services':>10}{'transitions/s':>14}{'worker us':>12}{'database us':>13}", flush=True)
    async with _service(servers, base, "live") as (service, database), receivers() as receiver:
        await _start(service, "user", 1000)
        for number in (0, 1, 5):
            aliases = [f"live-{n}" for n in range(number)]
            await _register(service, aliases[-4:] if number > 1 else aliases, receiver.port)
            already = {path: each["events"] for path, each in (await receiver.counts()).items()}
            found = []
            for n in range(1, rounds + 1):
                cost = Cost(database)
                await _transitions(service, "user", transitions, 1000)
                for alias in aliases:
                    path = f"/{alias}"
                    await receiver.until([path], already.get(path, 0) + n * transitions)
                found.append(cost.of(transitions))
            _print(report, f"{number}", found)
        await _require_order(receiver)


async def _rates(
    report: Report, servers: EmbeddedServers, base: Settings, transitions: int, rounds: int
) -> None:
    """Measure a backlog that is delivered, to one service and to many."""
    print(f"\na backlog of {transitions} events, medians of {rounds} rounds", flush=True)
    print(f"{'services':>10}{'deliveries/s':>14}{'worker us':>12}{'database us':>13}", flush=True)
    for number in (1, MANY):
        aliases = [f"service-{n}" for n in range(number)]
        events = max(transitions // number, 100)
        async with _service(servers, base, str(number)) as (service, database), receivers() as receiver:
            await _start(service, "user", 100)
            await _register(service, aliases, receiver.port)
            found = []
            for n in range(1, rounds + 1):
                await _enable(service, aliases, enabled=False)
                await _transitions(service, "user", events, 100)
                cost = Cost(database)
                await _enable(service, aliases, enabled=True)
                await receiver.until([f"/{alias}" for alias in aliases], n * events)
                found.append(cost.of(number * events))
            _print(report, f"{number}", found)
            await _require_order(receiver)


async def _dead_receiver(
    report: Report, servers: EmbeddedServers, base: Settings, transitions: int, rounds: int
) -> None:
    """Measure healthy services with and without a dead one that has many waiting events."""
    aliases = [f"service-{n}" for n in range(HEALTHY)]
    paths = [f"/{alias}" for alias in aliases]
    events = max(transitions // HEALTHY, 100)
    port = free_port()
    print(f"\n{HEALTHY} services, beside a dead one with {WAITING} waiting events", flush=True)
    async with _service(servers, base, "dead") as (service, database), receivers() as receiver:
        await _start(service, "user", 100)
        await _register(service, ["dead"], port)
        await _start(service, "waiting", WAITING)
        await _register(service, aliases, receiver.port)
        total = 0
        found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
        for _ in range(rounds):
            for dead in (True, False):
                await _enable(service, ["dead"], enabled=dead)
                await _enable(service, aliases, enabled=False)
                await _transitions(service, "user", events, 100)
                total += events
                cost = Cost(database)
                await _enable(service, aliases, enabled=True)
                await receiver.until(paths, total)
                found[dead].append(cost.of(HEALTHY * events))
        for dead, name in ((False, "without"), (True, "with")):
            _print(report, name, found[dead])
        await _require_order(receiver)
        await _enable(service, ["dead"], enabled=True)
        expected = WAITING + 2 * rounds * events
        async with receivers(port) as returned:
            began = time.perf_counter()
            await returned.until(["/dead"], expected)
            seconds = time.perf_counter() - began
            await _require_order(returned)
        print(f"after its return it got all {expected} in {seconds:.1f} s, in order", flush=True)
        report.add("return", events=expected, seconds=seconds)


async def _require_order(receiver: Receivers) -> None:
    counts = await receiver.counts()
    assert not any(each["disordered"] for each in counts.values()), counts


def _print(report: Report, name: str, found: list[dict[str, float]]) -> None:
    medians = {figure: statistics.median(each[figure] for each in found) for figure in found[0]}
    shown = f"{medians['per_second']:14.0f}{medians['worker_us']:12.0f}{medians['database_us']:13.0f}"
    print(f"{name:>10}{shown}", flush=True)
    report.add(name, **medians)
