"""1,000 operations in one request against 1,000 requests of one operation each, on the same service."""

import asyncio
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp

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
                secret = settings.jwt_secret.get_secret_value()
                token = issue_token(secret, "root", ttl=timedelta(hours=2), scopes=["flow:admin"])
                users = list(service.tokens)[:OPERATIONS]
                assert len(users) <= USERS
                async with aiohttp.ClientSession() as http:
                    await ready(http, service)
                    await in_flight(http, service, users, 16, "start", {})

                    async def batch() -> None:
                        wanted = [
                            {"op": "transition", "userId": user, "flowId": "counter", "transition": "again"}
                            for user in users
                        ]
                        headers = {"Authorization": f"Bearer {token}"}
                        url = f"{service.url}/api/admin/states/batch"
                        async with http.post(url, json={"operations": wanted}, headers=headers) as answer:
                            found: Any = await answer.json()
                            if found.get("succeeded") != OPERATIONS:
                                raise RuntimeError(f"not all were made: {found.get('succeeded')}")

                    async def singles(n: int) -> None:
                        await in_flight(http, service, users, n, "transition/again", {})

                    ways = {
                        "one batch": batch,
                        "singles, 1 in flight": lambda: singles(1),
                        "singles, 64 in flight": lambda: singles(64),
                    }
                    times: dict[str, list[float]] = {name: [] for name in ways}
                    for _ in range(rounds):
                        for name, way in ways.items():
                            began = time.perf_counter()
                            await way()
                            times[name].append(time.perf_counter() - began)
                            await asyncio.sleep(3)  # the relay's work must not fall into the next
                            print(".", end="", flush=True)
        finally:
            servers.stop()
    print(f"\n{OPERATIONS} transitions, medians of {rounds} rounds in turn")
    least = statistics.median(times["one batch"])
    for name, found in times.items():
        print(f"{name:>24}{statistics.median(found):10.2f} s{statistics.median(found) / least:8.2f}")
