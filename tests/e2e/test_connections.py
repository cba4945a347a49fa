"""Connections to a running worker that has few file descriptors left."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import psutil
import pytest

from tests.support.http import http_client
from tests.support.serving import Serving

PARTS = (
    b"",
    b"GET /li",
    b"GET /livez HTTP/1.1\r\nHost: h\r\n",
    b"GET /livez HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
)


@contextmanager
def descriptors_left(process: psutil.Process, left: int) -> Iterator[None]:
    """Leave a process only so many descriptors beside those that it has open."""
    before = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + left, before[1]))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_NOFILE, before)


async def until_accepted(http: httpx.AsyncClient) -> None:
    """Ask again while the event loop drops connections of a burst that it accepted all at once."""
    for _ in range(20):
        with suppress(httpx.TransportError):
            await http.get("/livez")
            return


@pytest.mark.expected_logs("connection limit reached", optional=True)
async def test_idle_clients_shut_out_nobody_when_descriptors_run_out(serving: Serving, user: str) -> None:
    host, port = serving.url.removeprefix("http://").split(":")
    (worker,) = serving.workers()
    with descriptors_left(worker, 60), ExitStack() as opened:
        for number in range(300):
            idle = opened.enter_context(socket.create_connection((host, int(port))))
            idle.send(PARTS[number % len(PARTS)])
        async with http_client(serving.url) as http:
            await until_accepted(http)
            for path in ("/livez", "/readyz"):
                assert (await http.get(path)).status_code == 200
        async with serving.http(user) as http:
            assert (await http.post("/api/flow/user-onboarding/start")).status_code == 201
    assert "connection limit reached" in serving.output
