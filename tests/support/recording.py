"""All that a server was sent, and all that a database stores, in bytes."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from tests.support.faults import passed_on


class RecordingProxy:
    """A TCP proxy that records what clients send, connection by connection."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._sent: list[bytearray] = []
        self.port = 0

    @property
    def sent(self) -> bytes:
        """Return all that was sent; what one connection sent is in one piece."""
        return b"\n".join(self._sent)

    async def start(self) -> "RecordingProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        record = bytearray()
        self._sent.append(record)
        try:
            async with passed_on(writer, self._target) as (inner_reader, inner_writer):
                await asyncio.gather(
                    self._pump(reader, inner_writer, record), self._pump(inner_reader, writer, None)
                )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)

    @staticmethod
    async def _pump(
        source: asyncio.StreamReader, sink: asyncio.StreamWriter, record: bytearray | None
    ) -> None:
        while data := await source.read(65_536):
            if record is not None:
                record += data
            sink.write(data)
            await sink.drain()
        with suppress(OSError):
            sink.close()


def stored_values(url: str, database: str) -> Iterator[tuple[str, bytes]]:
    """Return the bytes of each value in a database, each with its collection and its place there.

    The bytes are those of BSON, so that nothing is lost to the form of a value.
    """
    with MongoClient[RawBSONDocument](url, document_class=RawBSONDocument) as client:
        for name in client[database].list_collection_names():
            for document in client[database][name].find():
                yield from _values(name, bson.decode(document.raw))


def _values(place: str, value: Any) -> Iterator[tuple[str, bytes]]:
    if isinstance(value, dict):
        for name, member in value.items():
            yield place, name.encode()
            yield from _values(f"{place}.{name}", member)
    elif isinstance(value, list):
        for member in value:
            yield from _values(f"{place}[]", member)
    else:
        yield place, bson.encode({"": value})
