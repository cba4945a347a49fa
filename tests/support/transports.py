"""The transports below connections of aiohttp, for clients that stop reading or hang up without a word."""

import asyncio

from aiohttp import ClientWebSocketResponse


def transport_of(socket: ClientWebSocketResponse) -> asyncio.Transport:
    """Return the transport of an open connection. aiohttp itself offers only what it knows of it."""
    connection = socket._conn
    assert connection is not None
    transport = connection.transport
    assert isinstance(transport, asyncio.Transport)
    return transport
