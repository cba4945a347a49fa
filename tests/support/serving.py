"""Real processes of ``server-flow`` and real clients of them."""

import asyncio
import atexit
import contextlib
import itertools
import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import socketio

from app.auth.tokens import issue_token
from config.settings import SHIPPED_FLOWS, Settings
from tests.support.commands import RunningCommand
from tests.support.constants import Constants, with_constants
from tests.support.http import http_client
from tests.support.shorter_waits import SETTLING

COMMAND = str(Path(sys.executable).with_name("server-flow"))
NO_CONSTANTS: Constants = {}


class Process:
    """A running ``server-flow``, on a terminal or not; its output is read all the time."""

    def __init__(self, *arguments: str, env: dict[str, str], cwd: Path, terminal: bool = False) -> None:
        self.cwd = cwd
        outer, inner = os.openpty() if terminal else os.pipe()
        self.popen = RunningCommand(arguments, env, cwd, inner, inner)
        os.close(inner)
        self._printed = os.fdopen(outer)
        atexit.register(self.popen.kill)  # also when its test fails before it ends it
        self.lines: list[str] = []
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self._printed as printed, contextlib.suppress(OSError):  # a terminal ends with an error
            for line in printed:
                with self._grown:
                    self.lines.append(line.rstrip("\n"))
                    self._grown.notify_all()
        with self._grown:
            self._grown.notify_all()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, seconds: float = 40) -> re.Match[str]:
        """The first match in the output; fails when the process ends before."""
        deadline = time.monotonic() + seconds
        with self._grown:
            while True:
                match = re.search(pattern, self.output)
                if match:
                    return match
                left = deadline - time.monotonic()
                if left <= 0 or not self._reader.is_alive():
                    raise AssertionError(f"no {pattern!r} in:\n{self.output}")
                self._grown.wait(left)

    def family(self) -> list[psutil.Process]:
        """This process and everything below it."""
        own = psutil.Process(self.popen.pid)
        return [own, *own.children(recursive=True)]

    def end(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Signal it and wait; the exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        try:
            return self.popen.wait(seconds)
        finally:
            if self.popen.poll() is None:
                self.popen.kill()
            self._reader.join(10)


class Serving(Process):
    """``server-flow serve`` that has printed its address. ``constants``: see tests/support/constants.py."""

    def __init__(
        self,
        *arguments: str,
        env: dict[str, str],
        cwd: Path,
        terminal: bool = False,
        constants: Constants = NO_CONSTANTS,
    ) -> None:
        env = {**env, **with_constants({**SETTLING, **constants})}
        super().__init__("serve", "--port", "0", *arguments, env=env, cwd=cwd, terminal=terminal)
        self.secret = env.get("FLOW_JWT_SECRET", "")
        try:
            self.url = self.wait_for(r"serves at (http://\S+)")[1]
            self.wait_for("Ctrl-C stops it")
        except BaseException:
            self.end()
            raise

    def token(self, user: str, *scopes: str, roles: Sequence[str] = (), groups: Sequence[str] = ()) -> str:
        ttl = timedelta(hours=1)
        return issue_token(self.secret, user, ttl=ttl, roles=roles, scopes=scopes, groups=groups)

    def http(
        self, user: str, *scopes: str, roles: Sequence[str] = (), groups: Sequence[str] = ()
    ) -> httpx.AsyncClient:
        """An HTTP client of a user."""
        headers = {"Authorization": f"Bearer {self.token(user, *scopes, roles=roles, groups=groups)}"}
        return http_client(self.url, headers=headers)

    def workers(self) -> list[psutil.Process]:
        """The processes that accept requests."""
        port = int(self.url.rsplit(":", 1)[1])
        own, *below = self.family()
        children = [p for p in below if _is_worker(p, port)]
        return children or [own]


def serving_together(count: int, **named: Any) -> list[Serving]:
    """Start several at once, each with a port of its own; if one fails, all are ended."""
    with ThreadPoolExecutor(count) as pool:
        starting = [pool.submit(Serving, **named) for _ in range(count)]
    try:
        return [each.result() for each in starting]
    except BaseException:
        for each in starting:
            if each.exception() is None:
                each.result().end()
        raise


def end_together(hosts: Sequence[Serving]) -> None:
    """End several at once."""
    for host in hosts:
        host.popen.send_signal(signal.SIGTERM)
    for host in hosts:
        host.end()


def _is_worker(process: psutil.Process, port: int) -> bool:
    try:
        return "multiprocessing" in " ".join(process.cmdline()) and any(
            c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in process.net_connections("tcp")
        )
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def external(settings: Settings) -> dict[str, str]:
    """An environment that names the servers of ``settings``, with the flows that ship."""
    assert settings.mongo_url is not None
    assert settings.redis_url is not None
    assert settings.jwt_secret is not None
    keys = settings.encryption_keys
    return {
        **({} if keys is None else {"FLOW_ENCRYPTION_KEYS": keys.get_secret_value()}),
        "FLOW_MONGO_URL": settings.mongo_url.get_secret_value(),
        "FLOW_REDIS_URL": settings.redis_url.get_secret_value(),
        "FLOW_MONGO_DATABASE": settings.mongo_database,
        "FLOW_JWT_SECRET": settings.jwt_secret.get_secret_value(),
        "FLOW_DEFINITIONS": f"database,file:{SHIPPED_FLOWS}",
    }


class Follower:
    """A Socket.IO client that keeps every event it gets."""

    def __init__(self) -> None:
        # A service in this process, as in unit tests, sets the JSON of all clients in it to its own.
        self.client = socketio.AsyncClient(reconnection=False, json=json)
        self.events: list[tuple[str, Any]] = []
        self._grown = asyncio.Condition()
        self.client.on("*", self._got)

    async def _got(self, event: str, body: Any) -> None:
        async with self._grown:
            self.events.append((event, body))
            self._grown.notify_all()

    async def connect(self, url: str, token: str | None) -> "Follower":
        auth = {"token": token} if token else None
        await self.client.connect(url, auth=auth, transports=["websocket"], wait_timeout=10)
        return self

    async def call(self, event: str, body: Any) -> Any:
        return await self.client.call(event, body, timeout=30)

    def updates(self) -> list[Any]:
        return [body for event, body in self.events if event == "flow-state-updated"]

    async def until_revision(self, revision: int, seconds: float = 20) -> None:
        """Wait until the last update is the one that led to ``revision``."""
        await self.until(lambda f: bool(f.updates()) and f.updates()[-1]["revision"] == revision, seconds)

    async def until_updates(self, number: int) -> None:
        """Wait until there are at least so many updates."""
        await self.until(lambda f: len(f.updates()) >= number)

    async def until(self, done: Callable[["Follower"], bool], seconds: float = 20) -> None:
        """Wait until ``done`` holds; it is asked at each event."""
        async with self._grown:
            try:
                await asyncio.wait_for(self._grown.wait_for(lambda: done(self)), seconds)
            except TimeoutError:
                raise AssertionError(f"still waiting; got {self.events}") from None

    async def close(self) -> None:
        await self.client.disconnect()


async def close_all(parts: Sequence[Follower]) -> None:
    await asyncio.gather(*(part.close() for part in parts))


class Sender:
    """A back-end program that repeats each request with its key until it is answered."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._http: httpx.AsyncClient | None = None
        self.repeats = 0
        self.answers: Counter[int] = Counter()

    async def post(self, user: str, path: str, revision: int, body: Any) -> None:
        """Make the change of a user that leads to ``revision``."""
        headers = {
            "Authorization": f"Bearer {self._serving.token(user)}",
            "Idempotency-Key": f"{user}-{revision}",
        }
        for attempt in itertools.count():
            assert self._serving.popen.poll() is None, f"the service ended:\n{self._serving.output}"
            assert attempt < 200, f"never answered:\n{self._serving.output}"
            if self._http is None:
                self._http = http_client(self._serving.url, timeout=10)
            try:
                answer = await self._http.post(path, headers=headers, json=body)
            except httpx.TransportError:
                await self.close()
                self.repeats += 1
                await asyncio.sleep(0.02)
                continue
            self.answers[answer.status_code] += 1
            if answer.status_code in (200, 201):
                assert answer.json()["revision"] == revision, answer.text
                return
            assert answer.json()["retryable"], answer.text
            self.repeats += 1
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        http, self._http = self._http, None
        if http is not None:
            with suppress(Exception):
                await http.aclose()
