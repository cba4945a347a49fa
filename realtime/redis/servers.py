"""The Redis behind a URL: one server, one behind Sentinel, or a cluster (sharded pub/sub)."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, cast
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisClusterException, RedisError

from app.contracts.ports.bus import BusUnavailableError

TIMEOUT_SECONDS = 2.0
OUTAGE = (RedisError, RedisClusterException, OSError, asyncio.TimeoutError)
IN_FLIGHT = 32
"""Publishes to a cluster at a time."""

USABLE = (
    "redis://HOST:6379/0, rediss:// (TLS), unix://PATH, redis+sentinel://HOST:26379,HOST:26379/NAME/0 "
    "or redis+cluster://HOST:6379,HOST:6379 (with TLS: rediss+sentinel://, rediss+cluster://)"
)


class RedisServers(Protocol):
    """The Redis operations of the bus. Methods raise one of ``OUTAGE``."""

    sharded: bool
    """True if a channel lives on one server of many, and is subscribed to there (SSUBSCRIBE)."""

    async def ping(self) -> None:
        """Ask whether it answers."""

    async def time(self) -> float:
        """Seconds since 1970 by the clock of one of them."""

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> list[int]:
        """Send each message to its channel, in order; how many hear each."""

    async def look_up(self) -> None:
        """Find out anew which servers there are."""

    @property
    def names(self) -> list[str]:
        """The servers that carry channels."""

    def server_of(self, channel: str) -> str:
        """The name of the server that carries a channel."""

    def listener(self, server: str) -> Redis:
        """A client of a server, to listen with."""

    async def close(self) -> None:
        """Close all connections."""


def redis_servers(url: str) -> RedisServers:
    """The servers that a URL names. Raises BusUnavailableError for one that names none."""
    try:
        scheme, _, kind = urlsplit(url).scheme.partition("+")
        if kind not in ("", "sentinel", "cluster") or scheme not in ("redis", "rediss", "unix"):
            raise ValueError("scheme")
        if not kind:
            return OneServer(lambda **options: Redis.from_url(url, **options))
        named = _Named(url, tls=scheme == "rediss")
        return BehindSentinel(named) if kind == "sentinel" else Cluster(named)
    except (ValueError, TypeError):
        raise BusUnavailableError(f"FLOW_REDIS_URL is no Redis URL; it is like {USABLE}") from None


def _seconds(answer: tuple[int, int]) -> float:
    """The answer to TIME: seconds, and microseconds beside them."""
    return answer[0] + answer[1] / 1_000_000


class OneServer:
    """The RedisServers port on one server. ``client`` makes clients of it."""

    sharded = False

    def __init__(self, client: Callable[..., Redis]) -> None:
        never = Retry(NoBackoff(), 0)
        connecting = {"retry": never, "socket_connect_timeout": TIMEOUT_SECONDS}
        self._sender = client(socket_timeout=TIMEOUT_SECONDS, **connecting)
        self._sender.connection_pool.make_connection()  # type: ignore[no-untyped-call] # raises for unknown options
        self._listener = client(socket_keepalive=True, **connecting)

    async def ping(self) -> None:
        await cast(Awaitable[Any], self._sender.ping())

    async def time(self) -> float:
        return _seconds(await cast(Awaitable[Any], self._sender.time()))

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> list[int]:
        if len(messages) == 1:
            return [await self._sender.publish(*messages[0])]
        pipeline = self._sender.pipeline(transaction=False)
        for channel, message in messages:
            pipeline.publish(channel, message)
        return cast(list[int], await pipeline.execute())

    async def look_up(self) -> None:
        # Its name may lead to another one by now.
        for client in (self._sender, self._listener):
            await client.connection_pool.disconnect(inuse_connections=False)

    @property
    def names(self) -> list[str]:
        return [""]

    def server_of(self, channel: str) -> str:
        return ""

    def listener(self, server: str) -> Redis:
        return self._listener

    async def close(self) -> None:
        await self._sender.aclose()
        await self._listener.aclose()


class BehindSentinel(OneServer):
    """The RedisServers port on the master that the sentinels name, whichever that is."""

    def __init__(self, named: "_Named") -> None:
        service, database = named.service()
        timeouts = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
        secure = {name: value for name, value in named.options.items() if name.startswith("ssl")}
        self._sentinel = Sentinel(named.hosts, sentinel_kwargs={**secure, **timeouts})  # type: ignore[no-untyped-call]

        def client(**connecting: Any) -> Redis:
            master: Redis = self._sentinel.master_for(service, db=database, **named.options, **connecting)
            return master

        super().__init__(client)

    async def close(self) -> None:
        await super().close()
        for sentinel in self._sentinel.sentinels:
            await sentinel.aclose()


class Cluster:
    """The RedisServers port on a Redis cluster."""

    sharded = True

    def __init__(self, named: "_Named") -> None:
        self._named = named
        self._cluster = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in named.hosts],
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 1),  # once: when a slot has moved
            **named.options,
        )
        self._listeners: dict[str, Redis] = {}
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    async def ping(self) -> None:
        await self._cluster.initialize()
        await self._cluster.ping(target_nodes=RedisCluster.RANDOM)

    async def time(self) -> float:
        answer: Any = await self._cluster.time(target_nodes=RedisCluster.RANDOM)
        return _seconds(next(iter(answer.values())) if isinstance(answer, dict) else answer)

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> list[int]:
        return await asyncio.gather(*(self._publish(*message) for message in messages))

    async def _publish(self, channel: str, message: bytes) -> int:
        async with self._slots:
            return int(await cast(Awaitable[Any], self._cluster.spublish(channel, message)))

    async def look_up(self) -> None:
        await self._cluster.aclose()  # a cluster client asks for the slots anew when it is opened
        for listener in self._listeners.values():
            await listener.aclose()
        self._listeners.clear()
        await self._cluster.initialize()

    @property
    def names(self) -> list[str]:
        return [str(node.name) for node in self._cluster.get_primaries()]

    def server_of(self, channel: str) -> str:
        node = self._cluster.get_node_from_key(channel)
        if node is None:
            raise ConnectionError("no server has the slot")
        return str(node.name)

    def listener(self, server: str) -> Redis:
        if server not in self._listeners:
            host, _, port = server.rpartition(":")
            self._listeners[server] = Redis(
                host=host,
                port=int(port),
                retry=Retry(NoBackoff(), 0),
                socket_connect_timeout=TIMEOUT_SECONDS,
                socket_keepalive=True,
                **self._named.options,
            )
        return self._listeners[server]

    async def close(self) -> None:
        await self._cluster.aclose()
        for listener in self._listeners.values():
            await listener.aclose()


class _Named:
    """The parts of a URL with several hosts. Raises ValueError."""

    def __init__(self, url: str, *, tls: bool) -> None:
        parts = urlsplit(url)
        credentials, at, hosts = parts.netloc.rpartition("@")
        user, _, password = credentials.partition(":")
        self.options: dict[str, Any] = {}
        if at and password:
            self.options["password"] = unquote(password)
        if at and user:
            self.options["username"] = unquote(user)
        if tls:
            self.options["ssl"] = True
            for name, values in parse_qs(parts.query).items():
                if not name.startswith("ssl_"):
                    raise ValueError(name)
                self.options[name] = values[0]
        self.hosts = [_host(part) for part in hosts.split(",")]
        self._path = [part for part in parts.path.split("/") if part]

    def service(self) -> tuple[str, int]:
        """The name that the sentinels know the server by, and the database there."""
        if not 1 <= len(self._path) <= 2:
            raise ValueError("path")
        return self._path[0], int(self._path[1]) if len(self._path) == 2 else 0


def _host(part: str) -> tuple[str, int]:
    host, _, port = part.rpartition(":")
    if not host:
        raise ValueError(part)
    return host.strip("[]"), int(port)


@asynccontextmanager
async def telling_why() -> Any:
    """Raise errors of the block as BusUnavailableError, in words for an operator."""
    try:
        yield
    except AuthenticationError:
        raise BusUnavailableError("Redis refuses the user or password in FLOW_REDIS_URL") from None
    except OUTAGE:
        raise BusUnavailableError("Redis does not answer") from None
