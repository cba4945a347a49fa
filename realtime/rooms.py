"""The rooms of one worker's clients: who is told of which changes, presences and gaps."""

import asyncio
from collections import Counter
from functools import partial

import structlog

from app.contracts.events import Resync, StateChanged, Topic
from app.contracts.views import flow_updated_event
from app.services import FlowService
from app.services.audience import Membership, Told
from config.log import describe
from realtime.server import Server

log = structlog.get_logger("sockets")


def user_room(user_id: str) -> str:
    """The clients of a user: told of all of its states."""
    return f"user:{user_id}"


def state_room(flow_id: str, user_id: str) -> str:
    """Clients of others that follow a user's state."""
    return f"state:{flow_id}:{user_id}"


def flow_room(flow_id: str) -> str:
    """Those who watch a flow."""
    return f"flow:{flow_id}"


def presence_room(flow_id: str, user_id: str | None) -> str:
    """Those who asked who is on a state, or on any state of a flow."""
    return f"presence:{flow_id}" if user_id is None else f"presence:{flow_id}:{user_id}"


class Rooms:
    """Tells rooms. A topic is listened to while somebody is in a room that needs it."""

    def __init__(self, server: Server, service: FlowService) -> None:
        self._server = server
        self._audience = service.audience
        self._presence = service.presence
        self._needed: Counter[Topic] = Counter()
        self._memberships: dict[Topic, asyncio.Future[Membership]] = {}
        self._followed: dict[str, Counter[str]] = {}
        self._queue: asyncio.Queue[tuple[Topic, Told] | tuple[str, str]] = asyncio.Queue()
        self._presence.on_change(self._present)

    async def enter(self, sid: str, room: str, topic: Topic) -> None:
        """Put a client into a room; returns once everything that the room is to be told of is heard."""
        self._needed[topic] += 1
        membership = self._memberships.get(topic)
        if membership is None:
            tell = partial(self._told, topic)
            join = self._audience.follow_user if topic.kind == "user" else self._audience.watch_flow
            membership = self._memberships[topic] = asyncio.ensure_future(join(topic.name, tell))
        await asyncio.shield(membership)
        await self._server.enter_room(sid, room)

    async def leave(self, sid: str, room: str, topic: Topic) -> None:
        """Take a client out of a room."""
        await self._server.leave_room(sid, room)
        self._needed[topic] -= 1
        if self._needed[topic] > 0:
            return
        del self._needed[topic]
        membership = self._memberships.pop(topic)
        membership.add_done_callback(_leave)
        self._presence.forget_topic(topic)

    def follow(self, flow_id: str, user_id: str) -> None:
        """Somebody else's client follows a state."""
        self._followed.setdefault(user_id, Counter())[flow_id] += 1

    def unfollow(self, flow_id: str, user_id: str) -> None:
        """It does no more."""
        flows = self._followed[user_id]
        flows[flow_id] -= 1
        if flows[flow_id] <= 0:
            del flows[flow_id]
        if not flows:
            del self._followed[user_id]

    async def run(self) -> None:
        """Tell until cancelled: one event after the other, so that every client gets them in their order."""
        while True:
            about, told = await self._queue.get()
            try:
                if isinstance(about, str):
                    await self._tell_presence(about, str(told))
                elif isinstance(told, Resync):
                    await self._server.emit("flow-resync", {"reason": told.reason}, room=self._all_of(about))
                elif isinstance(told, StateChanged):
                    await self._tell_change(about, told)
            except Exception as error:  # noqa: BLE001 - the next client must hear
                log.error("emit failed", **describe(error))

    def _told(self, topic: Topic, told: Told) -> None:
        self._queue.put_nowait((topic, told))

    def _present(self, flow_id: str, user_id: str) -> None:
        self._queue.put_nowait((flow_id, user_id))

    async def _tell_change(self, topic: Topic, event: StateChanged) -> None:
        if topic.kind == "flow":
            update = flow_updated_event(event.body)
            await self._server.emit("flow-updated", update, room=flow_room(event.flow_id))
            return
        rooms = [user_room(event.user_id)]
        if event.flow_id in self._followed.get(event.user_id, ()):
            rooms.append(state_room(event.flow_id, event.user_id))
        await self._server.emit("flow-state-updated", event.body, room=rooms)

    def _all_of(self, topic: Topic) -> list[str]:
        if topic.kind == "flow":
            return [flow_room(topic.name)]
        followed = self._followed.get(topic.name, ())
        return [user_room(topic.name), *(state_room(flow, topic.name) for flow in followed)]

    async def _tell_presence(self, flow_id: str, user_id: str) -> None:
        rooms = [presence_room(flow_id, user_id), presence_room(flow_id, None)]
        if any(self._server.has_members(room) for room in rooms):
            clients = self._presence.known_on(flow_id, user_id)
            body = {"flowId": flow_id, "userId": user_id, "clients": clients}
            await self._server.emit("flow-presence", body, room=rooms)


def _leave(membership: asyncio.Future[Membership]) -> None:
    if not membership.cancelled() and membership.exception() is None:
        membership.result().leave()
