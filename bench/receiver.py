"""A receiver of webhooks in a process of its own: ``python -m bench.receiver PORT``.

It answers 200 with an empty body, and counts the events at each path. ``GET /`` returns the counts as JSON.
It is as cheap as a receiver in Python can be, so that it disturbs what is measured little.
"""

import asyncio
import sys
from collections import defaultdict

import httptools
import msgspec
import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Position(msgspec.Struct, rename="camel"):
    """The position of a change."""

    user_id: str
    epoch: str
    revision: int


class Event(msgspec.Struct):
    """The parts of an event that are counted."""

    id: str
    data: Position


class Counts(msgspec.Struct):
    """The events at one path; ``disordered`` ones came first after a later one of their state."""

    events: int = 0
    repeats: int = 0
    disordered: int = 0


class Receiver:
    """Counts events."""

    def __init__(self) -> None:
        self.counts: dict[str, Counts] = defaultdict(Counts)
        self._seen: dict[str, set[str]] = defaultdict(set)
        self._last: dict[tuple[str, str], tuple[str, int]] = {}
        self._decoder = msgspec.json.Decoder(Event)

    def receive(self, path: str, body: bytes) -> None:
        """Count an event."""
        event = self._decoder.decode(body)
        counts = self.counts[path]
        if event.id in self._seen[path]:
            counts.repeats += 1
            return
        self._seen[path].add(event.id)
        counts.events += 1
        position = (event.data.epoch, event.data.revision)
        last = self._last.get((path, event.data.user_id))
        counts.disordered += last is not None and position < last
        self._last[path, event.data.user_id] = position


class Connection(asyncio.Protocol):
    """A connection of a sender."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._parser = httptools.HttpRequestParser(self)
        self._path = ""
        self._body = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # that of uvloop is no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path += url.decode()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        assert self._transport is not None
        if self._parser.get_method() == b"GET":
            counts = msgspec.json.encode(self._receiver.counts)
            head = (
                f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(counts)}\r\n\r\n"
            )
            self._transport.write(head.encode() + counts)
        else:
            self._receiver.receive(self._path, bytes(self._body))
            self._transport.write(ANSWER)
        self._path = ""
        self._body.clear()


async def serve(port: int) -> None:
    """Serve until the process ends."""
    receiver = Receiver()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(receiver), "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
