"""Both interfaces of a service in this process: HTTP, and Socket.IO without connections."""

from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx

from app.http.application import build_application
from realtime.gateway.handlers import FlowSockets
from tests.support.rig import Rig


class Request(NamedTuple):
    """One request, in a form that can be sent in both worlds."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


@asynccontextmanager
async def _lifespan(_: Any) -> Any:
    yield


async def _nothing(*_: Any, **__: Any) -> None:
    pass


class Doors:
    """A service on fakes, with clients of both interfaces, whose tokens ``verifier`` verifies."""

    def __init__(self, rig: Rig, verifier: Any) -> None:
        self.rig = rig
        self.verifier = verifier
        application = build_application(
            rig.service, verifier, checks={}, cors_origins=[], max_payload_bytes=10_000, lifespan=_lifespan
        )
        self.routes = application.routes
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://test")
        self.sockets = FlowSockets(
            rig.service, verifier, transports=["websocket"], cors_origins=[], max_message_bytes=10_000
        )
        server = self.sockets.server  # without connections, to which events would go
        server.enter_room = server.leave_room = server.emit = _nothing

    async def send(self, caller: str | None, request: Request) -> httpx.Response:
        """Send a request with a bearer token, or without one."""
        token = {} if caller is None else {"Authorization": f"Bearer {caller.replace(' ', '_')}"}
        headers = {**token, **request.headers}
        return await self._http.request(
            request.method, request.path, params=request.query, json=request.body, headers=headers
        )

    async def request(self, method: str, url: str, **more: Any) -> httpx.Response:
        """Send a request as it is."""
        return await self._http.request(method, url, **more)

    async def call(self, caller: str, *events: tuple[str, dict[str, Any]]) -> Any:
        """Send events as one client of the caller, and return the last answer."""
        answer = None
        await self.sockets._connect(caller, {}, {"token": caller})
        for event, body in events:
            arguments = (event, caller, body) if event == "*" else (caller, body)
            answer = await self.sockets.server.handlers["/"][event](*arguments)
        await self.sockets._disconnect(caller)
        return answer
