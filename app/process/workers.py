"""Runs the workers that share one port."""

import gc
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from importlib import import_module
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.supervisors import multiprocess

from app.kit.descriptors import descriptor_limit, raise_descriptor_limit
from app.kit.lazy import import_structlog_without_rich
from app.process import StartError
from app.process.parent_death import end_with_parent
from app.process.supervisor import CONTEXT, Supervisor

APPLICATION = "app.asgi"
"""The module of the application; loaded in the workers, not in a process that only watches them."""
CONNECTIONS = "app.http.connections:BoundedConnection"
"""The class of a worker's HTTP connections; loaded in the workers too."""
PROTOCOLS = ("uvloop", "uvicorn.lifespan.on", "uvicorn.protocols.websockets.websockets_sansio_impl")
WORKER_IMPORTS = "app.process.worker_imports"
"""The module that the process which workers are forked from imports."""
BACKLOG = 2048
GRACEFUL_SECONDS = 10
UNREAD_SECONDS = 30
"""A client that acknowledges no data for this time is disconnected, which frees its memory."""
MIN_CONNECTIONS = 16
MIN_RESERVED_DESCRIPTORS, MAX_RESERVED_DESCRIPTORS = 56, 256
"""Reserved for files and connections to MongoDB and Redis: a quarter of the limit, within these bounds."""


class PortError(StartError):
    """The port cannot be opened."""

    code = "PORT_UNAVAILABLE"


def open_port(host: str, port: int) -> socket.socket:
    """Return a socket bound to the port, before anything else starts. Raises PortError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as refusal:
        bound.close()
        why = getattr(refusal, "strerror", None) or str(refusal)
        raise PortError(f"Port {port} on {host} cannot be used: {why}; choose another with --port") from None
    bound.set_inheritable(True)
    return bound


def connection_limit(most: int) -> int:
    """Return how many connections a worker accepts: ``most``, or fewer if file descriptors are limited."""
    descriptors = descriptor_limit()
    reserved = min(MAX_RESERVED_DESCRIPTORS, max(MIN_RESERVED_DESCRIPTORS, descriptors // 4))
    return max(MIN_CONNECTIONS, min(most, descriptors - reserved))


def run_workers(
    bound: socket.socket,
    count: int,
    *,
    message_limit: int,
    max_connections: int,
    on_ready: Callable[[], None],
) -> bool:
    """Serve with ``count`` processes until a signal. Returns False if they cannot start or stay alive."""
    raise_descriptor_limit()
    config = uvicorn.Config(
        create_app,
        factory=True,
        workers=count,
        http=CONNECTIONS,
        limit_concurrency=connection_limit(max_connections),
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        backlog=BACKLOG,
        ws="websockets-sansio",
        ws_max_size=message_limit,
        ws_per_message_deflate=False,
        ws_ping_interval=None,  # engine.io has its own, and a pong may queue behind many events
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        lifespan="on",
    )
    threading.Thread(target=_when_ready, args=(bound.getsockname(), on_ready), daemon=True).start()
    if count == 1:
        server = _Server(config)
        server.run(sockets=[bound])
        return server.started
    gc.enable()  # the workers do it themselves
    CONTEXT.set_forkserver_preload([WORKER_IMPORTS])
    supervisor = Supervisor(config, [bound])
    supervisor.run()
    return not supervisor.failed


def create_app() -> Any:
    """Create the application of a worker whose parent has prepared the database."""
    import_lean()
    return import_module(APPLICATION).create_prepared_app()


def load_application() -> None:
    """Import what every worker needs."""
    import_lean()
    for module in (APPLICATION, CONNECTIONS.partition(":")[0], *PROTOCOLS):
        import_module(module)


def import_lean() -> None:
    """Make the imports of a starting process cost less CPU.

    The garbage collector is off until the application runs: it would visit all modules several times while
    they are loaded, a tenth of the CPU of a start.
    """
    gc.disable()
    import_structlog_without_rich()


class _Server(uvicorn.Server):
    """A server that another Ctrl-C does not interrupt while it ends, which takes seconds at most."""

    handled: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals until the server has ended, then ignore them: the process ends anyway."""
        for number in self.handled:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            super().handle_exit(sig, frame)


class _WorkerServer(_Server):
    """The server of one of several workers.

    It ignores Ctrl-C, which a terminal sends to every process; its parent ends it.
    """

    handled = (signal.SIGTERM,)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve. Called in the worker, before its event loop exists."""
        end_with_parent()
        super().run(sockets)


multiprocess.Server = _WorkerServer  # type: ignore[attr-defined]  # there is no argument for it


def _when_ready(address: tuple[str, int], on_ready: Callable[[], None]) -> None:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])  # noqa: S104
    while True:
        connection = HTTPConnection(host, address[1], timeout=5)
        try:
            connection.request("GET", "/readyz?strict=true")
            if connection.getresponse().status == 200:
                on_ready()
                return
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.05)
