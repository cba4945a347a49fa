"""1,000 operations in one request against 1,000 requests of one operation each, on the same service."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pymongo

from app.auth.tokens import issue_token
from app.process.embedded import EmbeddedServers
from bench.transition import USERS, in_flight, ready, subjects
from config.settings import Settings

OPERATIONS = 1000


async def run(rounds: int) -> None:
    """Print the medians and how they compare."""
    with tempfile.TemporaryDirectory() as folder:
        servers = EmbeddedServers(Path(folder) / "data")
        settings = servers.start(Settings(_env_file=None))
        try:
            with subjects(servers, settings, folder) as (_, service):
                assert settings.jwt_secret
                assert settings.mongo_url
                database_url = settings.mongo_url.get_secret_value()
                secret = settings.jwt_secret.get_secret_value()
                token = issue_token(secret, "root", ttl=timedelta(hours=2), scopes=["flow:admin"])
                users = list(service.tokens)[:OPERATIONS]
                assert len(users) <= USERS
                async with aiohttp.ClientSession() as http:
                    await ready(http, service)
                    await in_flight(http, service, users, 16, "start", {})

                    async def batch(operations: list[dict[str, Any]]) -> None:
                        headers = {"Authorization": f"Bearer {token}"}
                        url = f"{service.url}/api/admin/states/batch"
                        async with http.post(url, json={"operations": operations}, headers=headers) as answer:
                            found: Any = await answer.json()
                            if found.get("succeeded") != OPERATIONS:
                                raise RuntimeError(f"not all were made: {found.get('succeeded')}")

                    def of(op: str, **more: Any) -> list[dict[str, Any]]:
                        return [{"op": op, "userId": user, "flowId": "counter", **more} for user in users]

                    times: dict[str, list[tuple[float, float]]] = {}
                    database = psutil.Process(servers.servers["mongodb"].pid)

                    async def timed(name: str, work: Awaitable[object]) -> None:
                        began, cpu = time.perf_counter(), sum(database.cpu_times()[:2])
                        await work
                        lasted = time.perf_counter() - began
                        times.setdefault(name, []).append((lasted, sum(database.cpu_times()[:2]) - cpu))
                        await asyncio.sleep(3)  # the relay's work must not fall into the next
                        print(".", end="", flush=True)

                    for _ in range(rounds):
                        again = "transition/again"
                        await timed("transitions in one batch", batch(of("transition", transition="again")))
                        await timed("  singles, 1 in flight", in_flight(http, service, users, 1, again, {}))
                        await timed("  singles, 64 in flight", in_flight(http, service, users, 64, again, {}))
                        for name, n in (("starts in one batch", 0), ("  singles, 1 in flight ", 1)):
                            client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(database_url)
                            client["bench_service"]["flow_states"].delete_many({})
                            if n:
                                await timed(name, in_flight(http, service, users, n, "start", {}))
                            else:
                                await timed(name, batch(of("set", body={"step": "a"})))
        finally:
            servers.stop()
    print(
        f"\n{OPERATIONS} operations, medians of {rounds} rounds in turn, and how they compare with one batch"
    )
    least = 0.0
    for name, found in times.items():
        median = statistics.median(lasted for lasted, _ in found)
        cpu = statistics.median(used for _, used in found)
        least = median if "batch" in name else least
        print(f"{name:>26}{median:10.2f} s{median / least:8.2f}   MongoDB's CPU {cpu:.2f} s")
