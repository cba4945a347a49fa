"""URLs of Redis that cannot be used are refused before anything connects, without repeating them."""

from typing import Any

import pytest

from app.contracts.errors import BusUnavailableError
from realtime.redis.connections import ClosableConnection
from realtime.redis.servers import OUTAGE, redis_servers


@pytest.mark.parametrize(
    "url",
    [
        "redis://h/0?ssl_password=hidden",
        "redis://h/0?hidden=1",
        "rediss://h/0?hidden=1",
        "unix:///run/redis.sock?hidden=1",
        "rediss+sentinel://h:1/name/0?hidden=1",
        "rediss+cluster://h:1?ssl_hidden=1",
        "redis://u:hidden/0",
        "http://:hidden@h",
        "hidden",
    ],
)
async def test_a_url_that_cannot_be_used_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BusUnavailableError, match="FLOW_REDIS_URL is not a Redis URL") as refusal:
        redis_servers(url)
    assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize(
    "url", ["redis://h/0", "rediss://h/0", "unix:///run/redis.sock", "redis+sentinel://h:1/name/0"]
)
async def test_connections_of_every_kind_are_closable(url: str) -> None:
    servers = redis_servers(url)
    for client in (servers.commands, servers.subscriber("")):
        assert issubclass(client.connection_pool.connection_class, ClosableConnection)


class Closed:
    """A connection that was closed while it sent, with the error of a version of Python."""

    error: Exception

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        raise self.error


@pytest.mark.parametrize("error", [AttributeError("no attribute 'writelines'"), TypeError("not callable")])
async def test_a_closed_connection_is_an_outage(error: Exception) -> None:
    class Connection(ClosableConnection, Closed):
        pass

    Connection.error = error
    with pytest.raises(OUTAGE):
        await Connection().send_packed_command(b"PING")
