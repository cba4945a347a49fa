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

from app.contracts.errors import BusUnavailableError
from realtime.redis.connections import use_closable_connections

TIMEOUT_SECONDS = 2.0
OUTAGE = (RedisError, RedisClusterException, OSError, asyncio.TimeoutError)
MAX_IN_FLIGHT = 32
"""Concurrent publishes to a cluster."""

URL_FORMS = (
    "redis://HOST:6379/0, rediss:// (TLS), unix://PATH, redis+sentinel://HOST:26379,HOST:26379/NAME/0 "
    "or redis+cluster://HOST:6379,HOST:6379 (with TLS: rediss+sentinel://, rediss+cluster://)"
)


class RedisServers(Protocol):
    """The Redis operations of the bus. Methods raise one of ``OUTAGE``.

    Attributes:
        sharded: A channel lives on one server of many, and is subscribed to there (SSUBSCRIBE).
    """

    sharded: bool

    async def ping(self) -> None:
        """Check that Redis answers."""

    async def time(self) -> float:
        """Return the seconds since 1970 by the clock of one server."""

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> list[int]:
        """Publish each message on its channel, in order. Returns the number of receivers of each."""

    async def refresh(self) -> None:
        """Look up again which servers there are."""

    @property
    def names(self) -> list[str]:
        """The names of the servers that carry channels."""

    def server_of(self, channel: str) -> str:
        """Return the name of the server that carries a channel."""

    def subscriber(self, server: str) -> Redis:
        """Return the client of a server for subscriptions."""

    @property
    def commands(self) -> Redis:
        """The client for commands about keys. Each goes to the server of its key."""

    async def close(self) -> None:
        """Close all connections."""


def redis_servers(url: str) -> RedisServers:
    """Return the servers that a URL names.

    Raises:
        BusUnavailableError: The URL is not one of the supported forms. Its message does not repeat the URL.
    """
    try:
        scheme, _, kind = urlsplit(url).scheme.partition("+")
        if kind not in ("", "sentinel", "cluster") or scheme not in ("redis", "rediss", "unix"):
            raise ValueError("scheme")
        if not kind:
            return StandaloneServer(lambda **options: Redis.from_url(url, **options))
        hosts = _HostList(url, tls=scheme == "rediss")
        return SentinelMaster(hosts) if kind == "sentinel" else Cluster(hosts)
    except (ValueError, TypeError):
        raise BusUnavailableError(
            f"FLOW_REDIS_URL is not a Redis URL; supported forms are {URL_FORMS}"
        ) from None


def _seconds(answer: tuple[int, int]) -> float:
    """Convert the answer to TIME: seconds and microseconds."""
    return answer[0] + answer[1] / 1_000_000


class StandaloneServer:
    """The RedisServers protocol on one server. ``client`` makes clients of it."""

    sharded = False

    def __init__(self, client: Callable[..., Redis]) -> None:
        never = Retry(NoBackoff(), 0)
        connecting = {"retry": never, "socket_connect_timeout": TIMEOUT_SECONDS}
        self._sender = client(socket_timeout=TIMEOUT_SECONDS, **connecting)
        self._sender.connection_pool.make_connection()  # type: ignore[no-untyped-call] # raises for unknown options
        self._subscriber = client(socket_keepalive=True, **connecting)
        for each in (self._sender, self._subscriber):
            use_closable_connections(each)

    async def ping(self) -> None:
        """Check that Redis answers."""
        await cast(Awaitable[Any], self._sender.ping())

    async def time(self) -> float:
        """Return the seconds since 1970 by the clock of one server."""
        return _seconds(await cast(Awaitable[Any], self._sender.time()))

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> list[int]:
        """Publish each message on its channel, in order."""
        if len(messages) == 1:
            return [await self._sender.publish(*messages[0])]
        pipeline = self._sender.pipeline(transaction=False)
        for channel, message in messages:
            pipeline.publish(channel, message)
        return cast(list[int], await pipeline.execute())

    async def refresh(self) -> None:
        """Look up again which servers there are."""
        # The name may resolve to another server now.
        for client in (self._sender, self._subscriber):
            await client.connection_pool.disconnect(inuse_connections=False)

    @property
    def names(self) -> list[str]:
        """The names of the servers that carry channels."""
        return [""]

    def server_of(self, channel: str) -> str:
        """Return the name of the server that carries a channel."""
        return ""

    def subscriber(self, server: str) -> Redis:
        """Return the client of a server for subscriptions."""
        return self._subscriber

    @property
    def commands(self) -> Redis:
        """The client for commands about keys."""
        return self._sender

    async def close(self) -> None:
        """Close all connections."""
        await self._sender.aclose()
        await self._subscriber.aclose()


class SentinelMaster(StandaloneServer):
    """The RedisServers protocol on the master that the sentinels name at the time."""

    def __init__(self, hosts: "_HostList") -> None:
        service, database = hosts.service()
        timeouts = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
        secure = {name: value for name, value in hosts.options.items() if name.startswith("ssl")}
        self._sentinel = Sentinel(hosts.addresses, sentinel_kwargs={**secure, **timeouts})  # type: ignore[no-untyped-call]

        def client(**connecting: Any) -> Redis:
            master: Redis = self._sentinel.master_for(service, db=database, **hosts.options, **connecting)
            return master

        super().__init__(client)

    async def close(self) -> None:
        """Close all connections."""
        await super().close()
        for sentinel in self._sentinel.sentinels:
            await sentinel.aclose()


class Cluster:
    """The RedisServers protocol on a Redis cluster."""

    sharded = True

    def __init__(self, hosts: "_HostList") -> None:
        self._options = hosts.options
        self._cluster = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in hosts.addresses],
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 1),  # once: when a slot has moved
            **hosts.options,
        )
        use_closable_connections(self._cluster)
        self._subscribers: dict[str, Redis] = {}
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)

    async def ping(self) -> None:
        """Check that Redis answers."""
        await self._cluster.initialize()
        await self._cluster.ping(target_nodes=RedisCluster.RANDOM)

    async def time(self) -> float:
        """Return the seconds since 1970 by the clock of one server."""
        answer: Any = await self._cluster.time(target_nodes=RedisCluster.RANDOM)
        return _seconds(next(iter(answer.values())) if isinstance(answer, dict) else answer)

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> list[int]:
        """Publish each message on its channel, in order."""
        return await asyncio.gather(*(self._publish(*message) for message in messages))

    async def _publish(self, channel: str, message: bytes) -> int:
        async with self._slots:
            return int(await cast(Awaitable[Any], self._cluster.spublish(channel, message)))

    async def refresh(self) -> None:
        """Look up again which servers there are."""
        await self._cluster.aclose()  # a cluster client loads the slots again when it is initialized
        for listener in self._subscribers.values():
            await listener.aclose()
        self._subscribers.clear()
        await self._cluster.initialize()

    @property
    def names(self) -> list[str]:
        """The names of the servers that carry channels."""
        return [str(node.name) for node in self._cluster.get_primaries()]

    def server_of(self, channel: str) -> str:
        """Return the name of the server that carries a channel."""
        node = self._cluster.get_node_from_key(channel)
        if node is None:
            raise ConnectionError("no server owns the slot")
        return str(node.name)

    def subscriber(self, server: str) -> Redis:
        """Return the client of a server for subscriptions."""
        if server not in self._subscribers:
            host, _, port = server.rpartition(":")
            self._subscribers[server] = Redis(
                host=host,
                port=int(port),
                retry=Retry(NoBackoff(), 0),
                socket_connect_timeout=TIMEOUT_SECONDS,
                socket_keepalive=True,
                **self._options,
            )
            use_closable_connections(self._subscribers[server])
        return self._subscribers[server]

    @property
    def commands(self) -> Redis:
        """The client for commands about keys. Each goes to the server of its key."""
        return cast(Redis, self._cluster)  # it has the same methods for commands about one key

    async def close(self) -> None:
        """Close all connections."""
        await self._cluster.aclose()
        for listener in self._subscribers.values():
            await listener.aclose()


class _HostList:
    """The parts of a URL with several hosts. Raises ValueError if it is malformed."""

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
        self.addresses = [_host(part) for part in hosts.split(",")]
        self._path = [part for part in parts.path.split("/") if part]

    def service(self) -> tuple[str, int]:
        """Return the name of the service at the sentinels, and the database."""
        if not 1 <= len(self._path) <= 2:
            raise ValueError("path")
        return self._path[0], int(self._path[1]) if len(self._path) == 2 else 0


def _host(part: str) -> tuple[str, int]:
    host, _, port = part.rpartition(":")
    if not host:
        raise ValueError(part)
    return host.strip("[]"), int(port)


@asynccontextmanager
async def explaining_outage() -> Any:
    """Raise errors of the block as BusUnavailableError with a message for operators."""
    try:
        yield
    except AuthenticationError:
        raise BusUnavailableError("Redis rejected the user or password in FLOW_REDIS_URL") from None
    except OUTAGE:
        raise BusUnavailableError("Redis does not answer") from None
