"""The rooms of one worker's clients: who is told of which changes, presences and gaps."""

import asyncio
from collections import Counter
from functools import partial

import structlog

from app.contracts.errors import AuthenticationRequiredError
from app.contracts.events import Resync, StateChanged, Topic
from app.contracts.wire.states import flow_updated_event
from app.services import FlowService
from app.services.live.subscribers import LiveEvent, TopicSubscription
from config.log import describe
from realtime.gateway.bounded_server import Server
from realtime.gateway.session import Client

log = structlog.get_logger("sockets")

PRESENCE_SECONDS = 0.1
"""Changes of who is present that come within this time are told as one."""


def user_room(user_id: str) -> str:
    """The clients of a user: told of all of its states."""
    return f"user:{user_id}"


def state_room(flow_id: str, user_id: str) -> str:
    """Clients of others that follow a user's state."""
    return f"state:{flow_id}:{user_id}"


def flow_room(flow_id: str) -> str:
    """The room of those who watch a flow."""
    return f"flow:{flow_id}"


def presence_room(flow_id: str, user_id: str | None) -> str:
    """The room of those who asked who is on a state, or on any state of a flow."""
    return f"presence:{flow_id}" if user_id is None else f"presence:{flow_id}:{user_id}"


class Rooms:
    """Tells rooms. A topic is listened to while a client is in a room that needs it."""

    def __init__(self, server: Server, service: FlowService) -> None:
        self._server = server
        self._audience = service.audience
        self._updates = service.updates
        self._presence = service.presence
        self._needed: Counter[Topic] = Counter()
        self._memberships: dict[Topic, asyncio.Future[TopicSubscription]] = {}
        self._rooms_of: dict[Topic, dict[str, set[Client]]] = {}
        self._queue: asyncio.Queue[tuple[Topic, LiveEvent]] = asyncio.Queue()
        self._present: dict[tuple[str, str], None] = {}
        self._presence_changed = asyncio.Event()
        self._presence.on_change(self._note_presence)

    async def enter(self, client: Client, room: str, topic: Topic) -> None:
        """Put a client into a room; returns once everything that the room is to be told of is heard. Raises
        AuthenticationRequiredError when the client has gone meanwhile."""
        self._needed[topic] += 1
        try:
            await asyncio.shield(self._membership(topic))
            if client.gone:
                raise AuthenticationRequiredError("This connection has ended")
        except BaseException:
            self._let_go(topic)
            raise
        client.rooms[room] = topic
        self._rooms_of.setdefault(topic, {}).setdefault(room, set()).add(client)
        await self._server.enter_room(client.sid, room)

    async def leave(self, client: Client, room: str) -> None:
        """Take a client out of a room, if it is in there."""
        topic = client.rooms.pop(room, None)
        if topic is None:
            return
        rooms = self._rooms_of[topic]
        rooms[room].discard(client)
        if not rooms[room]:
            del rooms[room]
        if not rooms:
            del self._rooms_of[topic]
        self._let_go(topic)
        await self._server.leave_room(client.sid, room)

    def _membership(self, topic: Topic) -> asyncio.Future[TopicSubscription]:
        if topic not in self._memberships:
            tell = partial(self._told, topic)
            join = self._audience.follow_user if topic.kind == "user" else self._audience.watch_flow
            self._memberships[topic] = asyncio.ensure_future(join(topic.name, tell))
        return self._memberships[topic]

    def _let_go(self, topic: Topic) -> None:
        self._needed[topic] -= 1
        membership = self._memberships.get(topic)
        failed = membership is not None and membership.done() and not _succeeded(membership)
        if failed:
            del self._memberships[topic]  # who comes next tries again
        if self._needed[topic] > 0:
            return
        del self._needed[topic]
        if membership is not None and not failed:
            del self._memberships[topic]
            if membership.done():
                membership.result().leave()
            else:
                membership.add_done_callback(_leave)

    async def run(self) -> None:
        """Tell until cancelled: one event after the other, so that every client gets them in their order."""
        await asyncio.gather(self._tell_all(), self._tell_presences())

    async def _tell_all(self) -> None:
        while True:
            topic, told = await self._queue.get()
            try:
                if isinstance(told, Resync):
                    rooms = list(self._rooms_of.get(topic, ()))
                    if rooms:
                        await self._server.emit("flow-resync", {"reason": told.reason}, room=rooms)
                else:
                    await self._tell_change(topic, told)
            except Exception as error:  # noqa: BLE001 - the next client must hear
                log.error("emit failed", **describe(error))

    async def _tell_presences(self) -> None:
        while True:
            await self._presence_changed.wait()
            await asyncio.sleep(PRESENCE_SECONDS)
            self._presence_changed.clear()
            places, self._present = self._present, {}
            for place in places:
                try:
                    await self._tell_presence(*place)
                except Exception as error:  # noqa: BLE001 - the next client must hear
                    log.error("emit failed", **describe(error))

    def _told(self, topic: Topic, told: LiveEvent) -> None:
        self._queue.put_nowait((topic, told))

    def _note_presence(self, flow_id: str, user_id: str) -> None:
        self._present[flow_id, user_id] = None
        self._presence_changed.set()

    async def _tell_change(self, topic: Topic, event: StateChanged) -> None:
        rooms = [flow_room(event.flow_id)]
        if topic.kind == "user":
            rooms = [user_room(event.user_id), state_room(event.flow_id, event.user_id)]
        members = self._rooms_of.get(topic, {})
        clients = [client for room in rooms for client in members.get(room, ())]
        try:
            if await self._updates.is_same_for_everyone(event):
                await self._emit(topic, event, rooms)
                return
            own = [(client, await self._updates.for_caller(event, client.caller)) for client in clients]
        except Exception as error:  # noqa: BLE001 - who cannot be told what is theirs reads it again
            log.warning("change not told", flow=event.flow_id, **describe(error))
            sids = [client.sid for client in clients]
            await self._server.emit("flow-resync", {"reason": "a change could not be told"}, room=sids)
            return
        for client, told in own:
            if told is not None:
                await self._emit(topic, told, client.sid)

    async def _emit(self, topic: Topic, event: StateChanged, to: str | list[str]) -> None:
        if topic.kind == "flow":
            await self._server.emit("flow-updated", flow_updated_event(event.body), room=to)
        else:
            await self._server.emit("flow-state-updated", event.body, room=to)

    async def _tell_presence(self, flow_id: str, user_id: str) -> None:
        rooms = [presence_room(flow_id, user_id), presence_room(flow_id, None)]
        if any(self._server.has_members(room) for room in rooms):
            clients = self._presence.known_on(flow_id, user_id)
            body = {"flowId": flow_id, "userId": user_id, "clients": clients}
            await self._server.emit("flow-presence", body, room=rooms)


def _succeeded(membership: asyncio.Future[TopicSubscription]) -> bool:
    return not membership.cancelled() and membership.exception() is None


def _leave(membership: asyncio.Future[TopicSubscription]) -> None:
    if _succeeded(membership):
        membership.result().leave()
