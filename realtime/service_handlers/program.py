"""A Python program that is a service: its handlers, and the way by which its events arrive."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal, Self

from realtime.consumer import StreamConsumer, StreamEvent
from realtime.service_handlers.api import ServiceApi
from realtime.service_handlers.handled import HandledEvents
from realtime.service_handlers.handlers import ServiceHandlers
from realtime.service_handlers.polling import DeliveryPoller, PendingPoller, PositionFile, PositionStore
from realtime.service_handlers.webhook import AsgiApplication, WebhookReceiver

Transport = Literal["webhook", "stream", "pull"]

IDLE_SECONDS = 1.0


class ServiceProgram(ServiceHandlers):
    """The handlers of a service, from ``async with``; ``run`` calls them for its events.

    Args:
        alias: The service, as it is registered.
        transport: The way by which events arrive.
        url: The address of the server, for polling, for answers to events of a stream, and for events without
            data.
        api_key: The key of the service, or a token.
        secret: For webhooks, and for streams of a server that encrypts: the secret of the service,
            ``whsec_…``; several while it is rotated.
        host: For webhooks: the address to listen at, unless a server of the program's own runs ``asgi()``.
        port: For webhooks: the port, 0 for a free one.
        path: For webhooks: the path.
        redis_url: For streams: the Redis of the server.
        database: For streams: ``FLOW_MONGO_DATABASE`` of the server.
        position: For polling: a file or a store that remembers the place among the deliveries. Without it,
            the states that wait for the service are polled.
        idle_seconds: For polling: the pause between polls.
        concurrency: For streams: the number of states whose events are handled at a time.
        handled: A store of handled events. By default the last ones are in memory.
        consumer_options: For streams: options of StreamConsumer.
    """

    def __init__(
        self,
        alias: str,
        *,
        transport: Transport = "pull",
        url: str | None = None,
        api_key: str | None = None,
        secret: str | Sequence[str] = (),
        host: str = "127.0.0.1",
        port: int = 8080,
        path: str = "/",
        redis_url: str | None = None,
        database: str = "server_flow",
        position: str | Path | PositionStore | None = None,
        idle_seconds: float = IDLE_SECONDS,
        concurrency: int = 1,
        handled: HandledEvents | None = None,
        consumer_options: dict[str, Any] | None = None,
    ) -> None:
        self._api = None if url is None or api_key is None else ServiceApi(url, alias, api_key)
        super().__init__(handled, self._api.state if self._api is not None else None)
        if transport != "webhook" and self._api is None:
            raise ValueError(f"the transport {transport} needs url and api_key")
        secrets = [secret] if isinstance(secret, str) else list(secret)
        if transport == "webhook" and not secrets:
            raise ValueError("the transport webhook needs the secret of the service")
        if transport == "stream" and redis_url is None:
            raise ValueError("the transport stream needs redis_url")
        self._transport = transport
        self._receiver = WebhookReceiver(self, secrets) if secrets else None
        self._address = host, port, path
        self._position = PositionFile(Path(position)) if isinstance(position, str | Path) else position
        self._idle_seconds = idle_seconds
        self._concurrency = concurrency
        self._new_consumer: Callable[[], StreamConsumer] = lambda: StreamConsumer(
            redis_url or "", alias, **{"database": database, "secrets": secrets, **(consumer_options or {})}
        )
        self._resources = AsyncExitStack()
        self._listening: asyncio.Future[int] | None = None

    async def __aenter__(self) -> Self:
        self._listening = asyncio.get_running_loop().create_future()
        if self._api is not None:
            await self._resources.enter_async_context(self._api)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._resources.aclose()

    def asgi(self) -> AsgiApplication:
        """Return an ASGI application that receives the webhooks, for a server of the program's own."""
        if self._receiver is None:
            raise ValueError("webhooks need the secret of the service")
        return self._receiver.asgi

    async def listening(self) -> int:
        """Wait until ``run`` listens for webhooks, and return the port."""
        if self._listening is None:
            raise RuntimeError("use the handlers in an async with statement")
        return await self._listening

    async def run(self) -> None:
        """Handle events until the task is cancelled."""
        if self._transport == "webhook":
            await self._serve()
        elif self._transport == "stream":
            async with self._new_consumer() as consumer:
                await consumer.run(self.process, concurrency=self._concurrency)
        else:
            await self._poll()

    async def process(self, event: StreamEvent) -> None:
        """Handle an event, and run the transition with which its handler answers.

        Raises:
            Exception: The handler failed, or the server could not be reached; the event is to be delivered
                again. The handler is not called again if only the answer failed.
        """
        answer = await self.handle(event)
        if answer is not None and self._api is not None:
            await self._api.answer(event, answer)

    async def _serve(self) -> None:
        if self._receiver is not None:
            host, port, path = self._address
            await self._receiver.serve(host, port, path, self._note_listening)

    def _note_listening(self, port: int) -> None:
        if self._listening is not None and not self._listening.done():
            self._listening.set_result(port)

    async def _poll(self) -> None:
        if self._api is None:
            return
        if self._position is not None:
            await DeliveryPoller(self._api, self.process, self._position, self._idle_seconds).run()
        if self.has_event_handlers:
            raise ValueError("handlers of events need a position: without one, waiting states are polled")
        await PendingPoller(self._api, self.process, self._idle_seconds).run()


service_handlers = ServiceProgram
