"""The gateway without a network, over a service on fakes."""

import asyncio
import time
from typing import Any

import pytest

from app.auth.tokens import TokenVerifier
from app.contracts.callers import Caller
from app.contracts.errors import AuthenticationRequiredError, FlowError
from app.contracts.events import Topic
from realtime.gateway.handlers import FlowSockets
from tests.support.rig import Rig


class Verifier:
    """Reads a token as a user, with ``+admin`` for the scope."""

    seconds = 60.0
    """The lifetime of a token."""

    async def verify(self, token: str | None) -> Caller:
        user, _, scope = str(token).partition("+")
        scopes = frozenset({f"flow:{scope or 'use'}"})
        return Caller(user, scopes=scopes, expires_at=time.time() + self.seconds)

    def knows(self, token: str) -> bool:
        return True

    async def renew(self, caller: Caller) -> Caller:
        if caller.expires_at <= time.time():
            raise AuthenticationRequiredError("The token has expired")
        return caller


class Gateway:
    """The gateway without a network: tests connect clients by calling its handlers."""

    def __init__(
        self, r: Rig, monkeypatch: pytest.MonkeyPatch, verifier: TokenVerifier | None = None
    ) -> None:
        self.rig = r
        self.verifier = Verifier()
        self.sockets = FlowSockets(
            r.service,
            verifier or self.verifier,  # type: ignore[arg-type]
            transports=["websocket"],
            cors_origins=[],
            max_message_bytes=1000,
        )
        self.emitted: list[tuple[str, Any, Any]] = []
        self.ended: asyncio.Queue[FlowError] = asyncio.Queue()
        self.members: dict[str, set[str]] = {}
        self.followed = asyncio.Event()
        self.followed.set()
        follow = r.bus.follow

        async def delayed(topic: Topic) -> None:
            await self.followed.wait()
            await follow(topic)

        async def emit(event: str, body: Any, room: Any = None, **_: Any) -> None:
            self.emitted.append((event, body, room))

        async def enter(sid: str, room: str) -> None:
            self.members.setdefault(room, set()).add(sid)

        async def leave(sid: str, room: str) -> None:
            self.members[room].discard(sid)

        async def end(_: str, error: FlowError) -> None:
            self.ended.put_nowait(error)

        monkeypatch.setattr(r.bus, "follow", delayed)
        server = self.sockets.server
        monkeypatch.setattr(server, "emit", emit)
        monkeypatch.setattr(server, "end", end)
        monkeypatch.setattr(server, "enter_room", enter)
        monkeypatch.setattr(server, "leave_room", leave)
        monkeypatch.setattr(server, "has_members", lambda room: bool(self.members.get(room)))

    async def connect(self, sid: str, token: str, environ: dict[str, Any] | None = None) -> None:
        await self.sockets._connect(sid, {} if environ is None else environ, {"token": token})

    async def disconnect_all(self) -> None:
        for sid in list(self.sockets._sessions):
            await self.sockets._disconnect(sid)

    def is_empty(self) -> bool:
        rooms, bus = self.sockets._rooms, self.rig.bus
        held = [
            rooms._sessions_by_topic,
            rooms._subscriptions,
            rooms._rooms_by_topic,
            self.rig.service.clients.connections,
        ]
        topics = [topic for topic, count in bus.followed.items() if count and topic.kind != "everyone"]
        inside = [room for room, sids in self.members.items() if sids]
        return not any(held) and not topics and not inside
