"""Cost of many states of one user in a flow: lists of the newest, and transitions, in one process."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil

from app.contracts.callers import Caller
from app.contracts.commands import Origin
from app.main import Backend
from app.services import FlowService
from app.services.trusted import TrustedFlows
from bench.common import FLOW, Report, embedded

FEW, MANY = 10, 1000
PAGE = 20
STARTS_IN_FLIGHT = 64


async def run(report: Report, requests: int, rounds: int) -> None:
    """Print the median times and the CPU of the database, with few and with many states."""
    with embedded() as (servers, base, _):
        database = psutil.Process(servers.servers["mongodb"].pid)
        own = {"mongo_database": "bench_instances", "user_changes_per_minute": 1_000_000}
        settings = base.model_copy(update=own)
        async with Backend(settings).running() as service:
            await _fill(service)
            print(f"medians of {rounds} rounds of {requests} requests, one at a time", flush=True)
            print(f"{'':>44}{'ms':>10}{'database us':>14}")
            for what, send in _subjects(service).items():
                first = await _timed(send)
                found = [await _measure(send, database, requests) for _ in range(rounds)]
                median = statistics.median(ms for ms, _ in found)
                cpu = statistics.median(us for _, us in found)
                print(f"{what:>44}{median:10.3f}{cpu:14.0f}   first {first:.2f} ms", flush=True)
                report.add(what, ms=median, database_us=cpu, first_ms=first)


async def _fill(service: FlowService) -> None:
    """Start few states of one user and many of another, and one in a flow of one."""
    flows = service.as_trusted()
    await service.create_flow({**FLOW, "flow": "one"})
    await service.create_flow({**FLOW, "flow": "many", "instances": "many"})
    await flows.start_flow("few", "one")
    for user, count in (("few", FEW), ("many", MANY)):
        queue = iter(range(count))
        await asyncio.gather(*(_start(flows, user, queue) for _ in range(STARTS_IN_FLIGHT)))
    await service.background.relay.drain(60)


async def _start(flows: TrustedFlows, user: str, queue: Any) -> None:
    for _ in queue:
        await flows.start_flow(user, "many")


def _subjects(service: FlowService) -> dict[str, Callable[[], Awaitable[object]]]:
    flows = service.as_trusted()
    newest: dict[str, str] = {}

    def listed(user: str) -> Callable[[], Awaitable[object]]:
        async def send() -> object:
            page = await flows.list_flow_states(user, "many", limit=PAGE)
            newest[user] = str(page.states[0].entity)
            return page

        return send

    def moved(user: str, flow_id: str) -> Callable[[], Awaitable[object]]:
        origin = Origin(Caller(user))

        async def send() -> object:
            entity_id = None if flow_id == "one" else newest[user]
            return await service.execute_transition(
                user, flow_id, "again", entity_id=entity_id, origin=origin
            )

        return send

    return {
        f"the newest {PAGE} of {FEW}": listed("few"),
        f"the newest {PAGE} of {MANY}": listed("many"),
        "a transition, instances: one": moved("few", "one"),
        f"a transition, one of {FEW}": moved("few", "many"),
        f"a transition, one of {MANY}": moved("many", "many"),
    }


async def _timed(send: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await send()
    return (time.perf_counter() - began) * 1000


async def _measure(
    send: Callable[[], Awaitable[object]], database: psutil.Process, requests: int
) -> tuple[float, float]:
    """Return the median time in milliseconds, and the CPU of the database for a request in microseconds."""
    before = sum(database.cpu_times()[:2])
    times = [await _timed(send) for _ in range(requests)]
    used = sum(database.cpu_times()[:2]) - before
    return statistics.median(times), used / requests * 1e6
