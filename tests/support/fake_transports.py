"""Transports of events to integrations that answer as a test scripts them, and record what was sent."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from msgspec import Struct

from app.contracts.errors import BusUnavailableError
from app.contracts.integration import Integration, IntegrationSecret
from app.contracts.ports.transports import WebhookAnswer

OK = WebhookAnswer(status=204)
NO_ANSWER = WebhookAnswer(failure="receiver", error="there is no connection to the receiver")


class SentWebhook(Struct, frozen=True):
    """A request: the integration and its URL, the event's id, and the body as it was sent."""

    alias: str
    url: str
    event_id: str
    body: bytes

    @property
    def event(self) -> Any:
        return msgspec.json.decode(self.body)


Answering = Callable[[SentWebhook], WebhookAnswer | Awaitable[WebhookAnswer]]


def answer(status: int, value: Any = None, **headers: str) -> WebhookAnswer:
    """An answer with a value as JSON; ``retry_after="5"`` is the header and what is read from it."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    wait = float(named["retry-after"]) if "retry-after" in named else None
    body = b"" if value is None else msgspec.json.encode(value)
    return WebhookAnswer(status=status, headers=named, body=body, retry_after=wait)


class FakeWebhooks:
    """Answers each request by the script of its URL, or else of its alias; 204 if there is neither.

    ``sent`` are all requests in order, ``running`` those that have no answer yet for each alias, ``peak``
    the most at a time. ``refused`` are URLs of which ``address_fault`` has a reason.
    """

    def __init__(self) -> None:
        self.sent: list[SentWebhook] = []
        self.running: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.refused: dict[str, str] = {}
        self.closed = False
        self._scripts: dict[str, list[WebhookAnswer | Answering]] = {}
        self._gates: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Condition()

    def script(self, target: str, *answers: WebhookAnswer | Answering) -> None:
        """Answer the next requests to a URL or an alias so, in order; the last answer is repeated."""
        self._scripts[target] = list(answers)

    @asynccontextmanager
    async def holding(self, target: str) -> AsyncIterator[None]:
        """Hold the answers of a URL or an alias until the end of the block."""
        gate = self._gates[target] = asyncio.Event()
        try:
            yield
        finally:
            del self._gates[target]
            gate.set()

    async def arrived(self, count: int, alias: str | None = None) -> None:
        """Wait until so many requests were sent, of one alias or of all."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.to(alias)) >= count)

    def to(self, alias: str | None) -> list[SentWebhook]:
        return [each for each in self.sent if alias in (None, each.alias)]

    async def send(self, integration: Integration, event_id: str, body: bytes) -> WebhookAnswer:
        alias, url = integration.alias, integration.url or ""
        request = SentWebhook(alias, url, event_id, body)
        if url in self.refused:
            return WebhookAnswer(failure="refused_address", error=self.refused[url])
        self.running[alias] += 1
        self.peak[alias] = max(self.peak[alias], self.running[alias])
        try:
            async with self._changed:
                self.sent.append(request)
                self._changed.notify_all()
            gate = self._gates.get(url) or self._gates.get(alias)
            if gate is not None:
                await gate.wait()
            return await self._answer(request)
        finally:
            self.running[alias] -= 1

    async def _answer(self, request: SentWebhook) -> WebhookAnswer:
        answers = self._scripts.get(request.url) or self._scripts.get(request.alias)
        if not answers:
            return OK
        scripted = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(scripted, WebhookAnswer):
            return scripted
        made = scripted(request)
        return made if isinstance(made, WebhookAnswer) else await made

    def address_fault(self, url: str) -> str | None:
        return self.refused.get(url)

    async def close(self) -> None:
        self.closed = True


class FakeEventStreams:
    """Streams in memory: ``streams`` by alias, and ``seals``, the id of the secret that seals each event.
    ``broken``: appending fails, after ``room`` events of each call."""

    def __init__(self) -> None:
        self.streams: defaultdict[str, list[tuple[str, bytes]]] = defaultdict(list)
        self.seals: defaultdict[str, list[str | None]] = defaultdict(list)
        self.broken = False
        self.room = 0

    def key(self, alias: str) -> str:
        return f"events:{alias}"

    async def append(
        self, alias: str, events: Sequence[tuple[str, bytes]], seal_with: IntegrationSecret | None = None
    ) -> None:
        appended = events[: self.room] if self.broken else events
        self.streams[alias] += appended
        self.seals[alias] += [None if seal_with is None else seal_with.id] * len(appended)
        if self.broken:
            self.room = max(0, self.room - len(events))
            raise BusUnavailableError

    async def delete(self, alias: str) -> None:
        if self.broken:
            raise BusUnavailableError
        self.streams.pop(alias, None)
        self.seals.pop(alias, None)

    def ids(self, alias: str) -> list[str]:
        return [event_id for event_id, _ in self.streams[alias]]

    def events(self, alias: str) -> list[Any]:
        return [msgspec.json.decode(body) for _, body in self.streams[alias]]
