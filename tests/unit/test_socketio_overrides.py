"""Overridden and private members of python-socketio and engine.io: compared with the installed versions.

An upgrade that changes one of them fails here. Then compare the library's new code with the override, and
update the table.
"""

import inspect
import types
from collections.abc import Iterator
from typing import Any

import aiohttp
import engineio
import pytest
import socketio
from engineio import base_client, packet, payload
from engineio.async_drivers import asgi
from engineio.async_socket import AsyncSocket
from socketio.packet import Packet

from realtime.client.connection import Connection, FlowPacket, HandshakeRecorder
from realtime.gateway.bounded_server import (
    INVALID_TRANSPORT,
    ORIGIN_NOT_ACCEPTED,
    BoundedEngine,
    BoundedServer,
    IndexedManager,
)

OVERRIDING = {
    BoundedServer: socketio.AsyncServer,
    IndexedManager: socketio.AsyncManager,
    BoundedEngine: engineio.AsyncServer,
    Connection: socketio.AsyncClient,
    FlowPacket: Packet,
    HandshakeRecorder: aiohttp.ClientWebSocketResponse,
}

OVERRIDDEN = {
    (socketio.AsyncServer, "handle_request"): "async (self, *args, **kwargs)",
    (socketio.AsyncServer, "_engineio_server_class"): "(self)",
    (socketio.AsyncServer, "_handle_eio_connect"): "async (self, eio_sid, environ)",
    (socketio.AsyncServer, "_handle_eio_disconnect"): "async (self, eio_sid, reason)",
    (socketio.AsyncServer, "_handle_eio_message"): "async (self, eio_sid, data)",
    (socketio.AsyncServer, "_handle_connect"): "async (self, eio_sid, namespace, data)",
    (socketio.AsyncServer, "_handle_disconnect"): "async (self, eio_sid, namespace, reason=None)",
    (socketio.AsyncServer, "_handle_event"): "async (self, eio_sid, namespace, id, data)",
    (socketio.AsyncManager, "basic_enter_room"): "(self, sid, namespace, room, eio_sid=None)",
    (socketio.AsyncManager, "basic_leave_room"): "(self, sid, namespace, room)",
    (socketio.AsyncManager, "basic_disconnect"): "(self, sid, namespace, **kwargs)",
    (engineio.AsyncServer, "handle_request"): "async (self, *args, **kwargs)",
    (engineio.AsyncServer, "create_queue"): "(self, *args, **kwargs)",
    (engineio.AsyncServer, "_make_response"): "async (self, response_dict, environ)",
    (engineio.AsyncServer, "_cors_allowed_origins"): "(self, environ)",
    (engineio.AsyncServer, "_cors_headers"): "(self, environ)",
    (engineio.AsyncServer, "_bad_request"): "(self, message=None)",
    (engineio.AsyncServer, "_async"): "dict",
    (socketio.AsyncClient, "_handle_disconnect"): "async (self, namespace)",
    (Packet, "json"): "JSON codec",
    (Packet, "uses_binary_events"): "bool",
    (aiohttp.ClientWebSocketResponse, "receive"): "async (self, timeout=None)",
}
"""Every overridden member, with its signature or its type in the library."""

USED = {
    (socketio.AsyncManager, "pre_connect"): "async (self, eio_sid, namespace)",
    (socketio.AsyncManager, "is_pre_connected"): "(self, sid, namespace)",
    (socketio.AsyncManager, "sid_from_eio_sid"): "(self, eio_sid, namespace)",
    (socketio.AsyncManager, "eio_sid_from_sid"): "(self, sid, namespace)",
    (socketio.AsyncManager, "disconnect"): "async (self, sid, namespace, **kwargs)",
    (AsyncSocket, "handle_post_request"): "async (self, environ)",
    (AsyncSocket, "receive"): "async (self, pkt)",
    (AsyncSocket, "close"): "async (self, wait=True, abort=False, reason=None)",
    (payload.Payload, "__init__"): "(self, packets=None, encoded_payload=None)",
    (payload.Payload, "max_decode_packets"): "int",
    (base_client, "connected_clients"): "list",
    (asgi, "translate_request"): "async (scope, receive, send)",
}
"""Every undocumented member that the gateway and the client call or replace."""


def shape(member: Any) -> str:
    """The signature of a function without its annotations, or the name of a value's type."""
    if not inspect.isfunction(member):
        is_codec = callable(getattr(member, "dumps", None)) and callable(getattr(member, "loads", None))
        return "JSON codec" if is_codec else type(member).__name__
    kind = "async " if inspect.iscoroutinefunction(member) else ""
    plain = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(member).parameters.values()
    ]
    return f"{kind}{inspect.Signature(plain)}"


def own_members(kind: type) -> Iterator[str]:
    """The names that a class defines itself, without those that every class has."""
    for name in {*vars(kind), *vars(kind).get("__annotations__", {})}:
        if not (name.startswith("__") and name.endswith("__")):
            yield name


def library_members(base: type) -> set[str]:
    """The names of a library's class, with those that its constructor sets."""
    names = {name for parent in base.__mro__[:-1] for name in vars(parent)}
    for parent in base.__mro__[:-1]:
        constructor = vars(parent).get("__init__")
        if isinstance(constructor, types.FunctionType):
            names |= {name for name in constructor.__code__.co_names if name.startswith("_")}
    return names


@pytest.mark.parametrize(
    ("owner", "name", "expected"),
    [(*member, expected) for member, expected in {**OVERRIDDEN, **USED}.items()],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_installed_library_has_the_member_as_it_was(owner: Any, name: str, expected: str) -> None:
    member = getattr(owner, name, None)
    if name == "_async":
        member = owner(async_mode="asgi")._async
    assert shape(member) == expected


@pytest.mark.parametrize("kind", OVERRIDING, ids=lambda kind: kind.__name__)
def test_every_override_is_listed_and_has_the_parameters_of_the_library(kind: type) -> None:
    base = OVERRIDING[kind]
    overridden = set(own_members(kind)) & library_members(base)
    assert overridden == {name for owner, name in OVERRIDDEN if owner is base}
    for name in overridden:
        own, library = vars(kind).get(name), getattr(base, name, None)
        if not inspect.isfunction(own) or not inspect.isfunction(library):
            continue
        assert inspect.iscoroutinefunction(own) == inspect.iscoroutinefunction(library), name
        wanted = inspect.signature(library).parameters
        if inspect.Parameter.VAR_POSITIONAL not in {each.kind for each in wanted.values()}:
            named = [each for each, parameter in wanted.items() if parameter.kind != parameter.VAR_KEYWORD]
            assert list(inspect.signature(own).parameters)[: len(named)] == named, name


def test_attributes_of_connections_are_where_the_gateway_looks_for_them() -> None:
    server = BoundedServer(async_mode="asgi")
    assert isinstance(server.eio, BoundedEngine)
    assert isinstance(server.manager, IndexedManager)
    assert (server.environ, server.eio.sockets) == ({}, {})
    manager = server.manager
    assert (manager.rooms, manager.callbacks, manager.pending_connect, manager.pending_disconnect) == (
        {},
        {},
        {},
        {},
    )
    connection = AsyncSocket(server.eio, "sid")
    assert (connection.closed, connection.closing) == (False, False)
    assert connection.last_ping
    assert connection.queue.empty()


def test_types_of_packets_are_those_that_the_gateway_accepts() -> None:
    named = [packet.CLOSE, packet.PONG, packet.MESSAGE, packet.UPGRADE, packet.NOOP]
    assert named == [1, 3, 4, 5, 6]


def test_texts_that_the_gateway_replaces_are_still_those_of_the_library() -> None:
    source = inspect.getsource(engineio.AsyncServer.handle_request)
    assert INVALID_TRANSPORT in source
    assert ORIGIN_NOT_ACCEPTED in source


async def test_attributes_of_a_client_are_where_the_connection_looks_for_them() -> None:
    client = socketio.AsyncClient(handle_sigint=False)
    assert (client.eio.read_loop_task, client.eio.write_loop_task, client.eio.ws) == (None, None, None)
