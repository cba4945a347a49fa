"""Connections to Redis whose failures are all errors of Redis."""

from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError


class ClosableConnection:
    """A connection of redis-py that raises ConnectionError if it is closed under a command.

    redis-py raises AttributeError or TypeError then: when the server closes an idle connection (its issue
    4287), and when a cluster client closes its connections to look up its servers again.
    """

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send a command, connecting first if necessary."""
        try:
            await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except (AttributeError, TypeError) as closed:
            raise RedisConnectionError("The connection was closed under a command") from closed


def use_closable_connections(client: Redis | RedisCluster) -> None:
    """Make the connections of a client closable; it has none yet."""
    if isinstance(client, RedisCluster):
        options = client.connection_kwargs
        options["connection_class"] = _closable(options["connection_class"])
        for node in client.nodes_manager.startup_nodes.values():
            node.connection_class = options["connection_class"]
    else:
        pool = client.connection_pool
        pool.connection_class = _closable(pool.connection_class)


def _closable(connection: type) -> type:
    return type(f"Closable{connection.__name__}", (ClosableConnection, connection), {})
