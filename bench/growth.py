"""Cost of a transition as states and history grow, and of an idle service: service and floor.

The states of the service are started through it, so that its checks find them sound; the records beyond
theirs are copies of one record, of users without a state.
"""

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import aiohttp
import psutil
import pymongo

from app.main import Backend
from app.process.embedded import EmbeddedServers
from app.services import FlowService
from bench.common import (
    Meter,
    Report,
    Result,
    Subject,
    database_url,
    embedded,
    measure,
    print_comparison,
    subjects,
)
from config.settings import Settings

STATES = (1_000, 10_000, 100_000)
RECORDS = 1_000_000
IN_FLIGHT = (1, 64)
STARTS_IN_FLIGHT = 256
STARTS_BEFORE_A_DRAIN = 5000
"""The relay is slower than starts without HTTP: its queue would overflow."""

DOCUMENTS_IN_A_COMMAND = 1000
SETTLE_SECONDS = 65.0
"""The embedded database makes a checkpoint each minute: that of the load before is not measured."""
IDLE_SECONDS = 60.0
"""As long as the longest interval of the background jobs."""


async def run(report: Report, requests: int, rounds: int, states: Sequence[int], records: int) -> None:
    """Print a table for each number of states, and one for the last with ``records`` in the history."""
    with embedded() as (servers, settings, folder), subjects(settings, folder, max(states)) as both:
        growth = _Growth(report, servers, settings, both)
        async with aiohttp.ClientSession() as http:
            for subject in both:
                await subject.ready(http)
        await growth.run(requests, rounds, states, records)


class _Growth:
    """Fills the databases of both subjects step by step, and measures at each step."""

    def __init__(
        self, report: Report, servers: EmbeddedServers, settings: Settings, both: list[Subject]
    ) -> None:
        self._report = report
        url = database_url(settings)
        self._settings = settings.model_copy(update={"mongo_database": "bench_service"})
        self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(url)
        self._both = both
        self._servers = {name: psutil.Process(server.pid) for name, server in servers.servers.items()}
        self._meter = Meter(servers, url)
        self._states = 0
        self._tokens = {subject.name: dict(subject.tokens) for subject in both}

    async def run(self, requests: int, rounds: int, states: Sequence[int], records: int) -> None:
        """Measure at each number of states, then with ``records`` records."""
        cores = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start"
        print(f"{requests} transitions a round, medians of {rounds} rounds in turn; {cores}", flush=True)
        for count in states:
            await self._grow_states(count)
            await self._measure(f"{count:,} states", requests, rounds)
        if records:
            self._grow_history(records)
            await self._measure(f"{states[-1]:,} states, {records:,} records", requests, rounds)

    async def _grow_states(self, count: int) -> None:
        began = time.perf_counter()
        new = [f"u{n}" for n in range(self._states, count)]
        now = datetime.now(UTC).timestamp()
        floor = self._client["bench_floor"]["states"]
        for first in range(0, len(new), DOCUMENTS_IN_A_COMMAND):
            users = new[first : first + DOCUMENTS_IN_A_COMMAND]
            documents = [
                {"_id": user, "step": "a", "revision": 0, "payload": {}, "updatedAt": now} for user in users
            ]
            floor.bulk_write([pymongo.ReplaceOne({"_id": d["_id"]}, d, upsert=True) for d in documents])
        async with Backend(self._settings).running() as service:
            for first in range(0, len(new), STARTS_BEFORE_A_DRAIN):
                queue = iter(new[first : first + STARTS_BEFORE_A_DRAIN])
                await asyncio.gather(*(_start(service, queue) for _ in range(STARTS_IN_FLIGHT)))
                await service.background.relay.drain(60)
        print(f"\n{len(new):,} states started in {time.perf_counter() - began:.0f} s", flush=True)
        self._states = count
        for subject in self._both:
            subject.tokens = {f"u{n}": self._tokens[subject.name][f"u{n}"] for n in range(count)}

    def _grow_history(self, records: int) -> None:
        history = self._client["bench_service"]["flow_history"]
        model = history.find_one({"stateId": "counter:u0"})
        assert model is not None
        began = time.perf_counter()
        have = 2 * self._states  # about
        for first in range(have, records, DOCUMENTS_IN_A_COMMAND):
            copies = []
            for n in range(first, first + DOCUMENTS_IN_A_COMMAND):
                user, revision = f"past{n // 10}", n % 10
                state = f"counter:{user}"
                record_id = f"{state}:{model['epoch']}:{revision}"
                copies.append(
                    {**model, "_id": record_id, "stateId": state, "userId": user, "revision": revision}
                )
            history.insert_many(copies, ordered=False)
        print(f"\n{records:,} records, in {time.perf_counter() - began:.0f} s", flush=True)

    async def _measure(self, what: str, requests: int, rounds: int) -> None:
        await asyncio.sleep(SETTLE_SECONDS)
        for n in IN_FLIGHT:
            print(f"\n{what}, {n} in flight")
            found: dict[str, list[Result]] = {subject.name: [] for subject in self._both}
            for seed in range(rounds):
                for subject in self._both:
                    found[subject.name].append(await measure(subject, self._meter, n, requests, seed))
            print_comparison(self._report, f"{what}, {n} in flight", found["floor"], found["service"])
        await self._show_idle(what)

    async def _show_idle(self, what: str) -> None:
        by_name = {subject.name: psutil.Process(subject.process.pid) for subject in self._both}
        by_name["floor"].suspend()  # its driver checks the database periodically too
        processes = {"worker": by_name["service"], **self._servers}
        await asyncio.sleep(SETTLE_SECONDS)
        before = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
        await asyncio.sleep(IDLE_SECONDS)
        used = {
            name: (sum(process.cpu_times()[:2]) - before[name]) / IDLE_SECONDS
            for name, process in processes.items()
        }
        by_name["floor"].resume()
        parts = ", ".join(f"{name} {share:.2%}" for name, share in used.items())
        print(f"{'idle, of a core':>20}{'':>12}{sum(used.values()):12.2%}   {parts}", flush=True)
        self._report.add(f"{what}, idle", shareOfACore=sum(used.values()), **used)


async def _start(service: FlowService, users: Iterator[str]) -> None:
    flows = service.as_trusted()
    for user in users:
        await flows.start_flow(user, "counter")
