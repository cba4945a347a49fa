"""1,000 operations in one request against 1,000 requests of one operation each, on the same service."""

import asyncio
import statistics
import time
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import aiohttp
import psutil
import pymongo

from app.auth.tokens import issue_token
from bench.common import Report, Subject, database_url, embedded, subjects
from config.settings import Settings

OPERATIONS = 1000
RELAY_SECONDS = 3.0
"""After each measurement: the relay's work must not fall into the next."""


async def run(report: Report, rounds: int) -> None:
    """Print the medians and how they compare."""
    with embedded() as (servers, settings, folder), subjects(settings, folder) as (_, service):
        async with aiohttp.ClientSession() as http:
            await service.ready(http)
            database = psutil.Process(servers.servers["mongodb"].pid)
            batches = _Batches(http, service, settings, database)
            await service.post_all(http, batches.users, 16, "start", {})
            for _ in range(rounds):
                await batches.measure()
    print(
        f"\n{OPERATIONS} operations, medians of {rounds} rounds in turn, and how they compare with one batch"
    )
    of_batch = 0.0
    for name, found in batches.times.items():
        median = statistics.median(lasted for lasted, _ in found)
        cpu = statistics.median(used for _, used in found)
        of_batch = median if "batch" in name else of_batch
        print(f"{name:>26}{median:10.2f} s{median / of_batch:8.2f}   MongoDB's CPU {cpu:.2f} s")
        report.add(name.strip(), seconds=median, ratio=median / of_batch, databaseCpuSeconds=cpu)


class _Batches:
    """Measures batches and single requests in turn; ``times``: seconds, and CPU seconds of the database."""

    def __init__(
        self, http: aiohttp.ClientSession, service: Subject, settings: Settings, database: psutil.Process
    ) -> None:
        assert settings.jwt_secret is not None
        secret = settings.jwt_secret.get_secret_value()
        self._token = issue_token(secret, "root", ttl=timedelta(hours=2), scopes=["flow:admin"])
        self._http = http
        self._service = service
        self._database = database
        self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(database_url(settings))
        self.users = list(service.tokens)[:OPERATIONS]
        self.times: dict[str, list[tuple[float, float]]] = {}

    async def measure(self) -> None:
        """Measure one round."""
        again = "transition/again"
        await self._timed("transitions in one batch", self._batch("transition", transition="again"))
        await self._timed("  singles, 1 in flight", self._singles(1, again))
        await self._timed("  singles, 64 in flight", self._singles(64, again))
        self._clear()
        await self._timed("starts in one batch", self._batch("set", body={"step": "a"}))
        self._clear()
        await self._timed("  singles, 1 in flight ", self._singles(1, "start"))

    def _clear(self) -> None:
        self._client["bench_service"]["flow_states"].delete_many({})

    async def _singles(self, n: int, path: str) -> None:
        await self._service.post_all(self._http, self.users, n, path, {})

    async def _batch(self, op: str, **more: Any) -> None:
        operations = [{"op": op, "userId": user, "flowId": "counter", **more} for user in self.users]
        headers = {"Authorization": f"Bearer {self._token}"}
        url = f"{self._service.url}/api/admin/states/batch"
        async with self._http.post(url, json={"operations": operations}, headers=headers) as answer:
            found: Any = await answer.json()
            if found.get("succeeded") != OPERATIONS:
                raise RuntimeError(f"not all were made: {found.get('succeeded')}")

    async def _timed(self, name: str, work: Awaitable[object]) -> None:
        began, cpu = time.perf_counter(), sum(self._database.cpu_times()[:2])
        await work
        lasted = time.perf_counter() - began
        self.times.setdefault(name, []).append((lasted, sum(self._database.cpu_times()[:2]) - cpu))
        await asyncio.sleep(RELAY_SECONDS)
        print(".", end="", flush=True)
