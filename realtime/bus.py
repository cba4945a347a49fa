"""The bus: events between workers over Redis pub/sub, in batches.

A message may be lost, and nothing depends on it: every event carries its position. What the bus
owes is to know when it is deaf, and to say so when it hears again.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
from msgspec import DecodeError, ValidationError, json
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

from app.contracts.events import Event
from app.contracts.ports import BusUnavailableError

log = structlog.get_logger("bus")

TIMEOUT_SECONDS = 2.0
POLL_SECONDS = 1.0
RECONNECT_SECONDS = (0.05, 0.1, 0.25, 0.5)
_OUTAGE = (RedisError, OSError, asyncio.TimeoutError)


class RedisBus:
    """The EventBus port on Redis. ``run`` listens until it is cancelled."""

    def __init__(self, url: str, namespace: str) -> None:
        """Raises BusUnavailableError for a URL that is none."""
        self._channel = f"server-flow:{namespace}:events"
        never = Retry(NoBackoff(), 0)
        try:
            self._sender: Redis = Redis.from_url(
                url, retry=never, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
            )
            self._listener: Redis = Redis.from_url(
                url, retry=never, socket_connect_timeout=TIMEOUT_SECONDS, socket_keepalive=True
            )
        except ValueError:
            raise BusUnavailableError("This is no Redis URL; one is like redis://host:6379/0") from None
        self._decoder = json.Decoder(list[Event])
        self._handlers: list[Callable[[Event], None]] = []
        self._resumed: list[Callable[[], None]] = []
        self._hearing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def hearing(self) -> bool:
        """Whether this worker receives what others publish."""
        return self._hearing.is_set()

    def subscribe(self, handler: Callable[[Event], None]) -> None:
        self._handlers.append(handler)

    def on_resume(self, handler: Callable[[], None]) -> None:
        self._resumed.append(handler)

    async def publish(self, events: Sequence[Event]) -> None:
        try:
            await self._sender.publish(self._channel, json.encode(list(events)))
        except _OUTAGE:
            raise BusUnavailableError from None

    async def ping(self) -> None:
        """Raise BusUnavailableError unless Redis answers."""
        try:
            await self._sender.ping()
        except AuthenticationError:
            raise BusUnavailableError("Redis refuses the user or password in FLOW_REDIS_URL") from None
        except _OUTAGE:
            raise BusUnavailableError("Redis does not answer") from None

    async def start(self) -> None:
        """Begin to listen; returns once this worker hears. Raises BusUnavailableError."""
        await self.ping()
        self._task = asyncio.create_task(self._listen())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hearing.wait(), TIMEOUT_SECONDS)

    async def stop(self) -> None:
        """Stop listening and close the connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._sender.aclose()
        await self._listener.aclose()

    async def _listen(self) -> None:
        failures = 0
        interrupted = False
        while True:
            pubsub = self._listener.pubsub()
            try:
                await pubsub.subscribe(self._channel)
                while True:
                    message = await pubsub.get_message(timeout=POLL_SECONDS)
                    if message is None:
                        continue
                    if message["type"] == "message":
                        self._hear(message["data"])
                    elif message["type"] == "subscribe":
                        failures = 0
                        self._hearing.set()
                        if interrupted:
                            self._resume()
                        interrupted = False
            except _OUTAGE as error:
                if self._hearing.is_set():
                    log.warning("deaf, Redis is away", error=type(error).__name__)
                self._hearing.clear()
                interrupted = True
                await asyncio.sleep(RECONNECT_SECONDS[min(failures, len(RECONNECT_SECONDS) - 1)])
                failures += 1
            finally:
                with suppress(*_OUTAGE):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]

    def _hear(self, data: bytes) -> None:
        try:
            events = self._decoder.decode(data)
        except (DecodeError, ValidationError, UnicodeDecodeError):
            log.warning("a message on the channel is not ours", bytes=len(data))
            return
        for event in events:
            for handler in self._handlers:
                handler(event)

    def _resume(self) -> None:
        log.info("hearing again")
        for handler in self._resumed:
            handler()
