"""Rooms of one worker's clients: delivery of changes, presence and gaps to them."""

import asyncio
from collections import Counter
from contextlib import suppress
from functools import partial

import structlog

from app.contracts.callers import Purpose
from app.contracts.errors import AuthenticationRequiredError, FlowError
from app.contracts.events import Resync, StateChanged, Topic
from app.contracts.state import StateId
from app.contracts.wire.states import flow_updated_event
from app.services import FlowService
from app.services.delivery.state_events import has_ended
from app.services.live.subscribers import LiveEvent, TopicSubscription
from config.log import describe
from realtime.gateway.bounded_server import BoundedServer
from realtime.gateway.session import Session

log = structlog.get_logger("sockets")

PRESENCE_DELAY_SECONDS = 0.1
"""Changes of presence within this time are sent as one."""


def user_room(user_id: str) -> str:
    """Return the room of a user's own clients, which receive changes of all of its states."""
    return f"user:{user_id}"


def state_room(state_id: StateId) -> str:
    """Return the room of other users' clients that follow a state."""
    return f"state:{state_id.key}"


def flow_room(flow_id: str) -> str:
    """Return the room of clients that watch a flow."""
    return f"flow:{flow_id}"


def presence_room(where: StateId | str) -> str:
    """Return the room for presence on a state, or on all states of a flow."""
    return f"presence:{where if isinstance(where, str) else where.key}"


class Rooms:
    """Emits events to rooms. A topic is subscribed to while a client is in a room that needs it."""

    def __init__(self, server: BoundedServer, service: FlowService) -> None:
        self._server = server
        self._subscribers = service.subscribers
        self._state_events = service.updates
        self._presence = service.presence
        self._require_access = service.catch_up.require_access
        self._sessions_by_topic: Counter[Topic] = Counter()
        self._subscriptions: dict[Topic, asyncio.Future[TopicSubscription]] = {}
        self._rooms_by_topic: dict[Topic, dict[str, set[Session]]] = {}
        self._queue: asyncio.Queue[tuple[Topic, LiveEvent]] = asyncio.Queue()
        self._changed_presence: dict[StateId, None] = {}
        self._presence_changed = asyncio.Event()
        self._presence.on_change(self._on_presence_change)

    async def enter(self, session: Session, room: str, topic: Topic) -> None:
        """Add a client to a room. Returns once the room's topic is subscribed to.

        Raises:
            AuthenticationRequiredError: The client has disconnected meanwhile.
        """
        self._sessions_by_topic[topic] += 1
        try:
            await asyncio.shield(self._subscription(topic))
            if session.disconnected:
                raise AuthenticationRequiredError("This connection has ended")
        except BaseException:
            self._release(topic)
            raise
        session.rooms[room] = topic
        self._rooms_by_topic.setdefault(topic, {}).setdefault(room, set()).add(session)
        await self._server.enter_room(session.sid, room)

    async def leave(self, session: Session, room: str) -> None:
        """Remove a client from a room, if it is in there."""
        topic = session.rooms.pop(room, None)
        if topic is None:
            return
        rooms = self._rooms_by_topic[topic]
        rooms[room].discard(session)
        if not rooms[room]:
            del rooms[room]
        if not rooms:
            del self._rooms_by_topic[topic]
        self._release(topic)
        await self._server.leave_room(session.sid, room)

    async def leave_state(self, session: Session, state_id: StateId) -> None:
        """Remove a client from the rooms of a state, and from those who are present on it."""
        session.followed.discard(state_id)
        unnamed = StateId(state_id.flow_id, state_id.user_id)
        if session.found.get(unnamed) == state_id:
            del session.found[unnamed]
        self._presence.leave(state_id, session.presence)
        await self.leave(session, presence_room(state_id))
        await self.leave(session, state_room(state_id))

    def _subscription(self, topic: Topic) -> asyncio.Future[TopicSubscription]:
        if topic not in self._subscriptions:
            enqueue = partial(self._enqueue, topic)
            join = self._subscribers.follow_user if topic.kind == "user" else self._subscribers.watch_flow
            self._subscriptions[topic] = asyncio.ensure_future(join(topic.name, enqueue))
        return self._subscriptions[topic]

    def _release(self, topic: Topic) -> None:
        self._sessions_by_topic[topic] -= 1
        subscription = self._subscriptions.get(topic)
        failed = subscription is not None and subscription.done() and not _succeeded(subscription)
        if failed:
            del self._subscriptions[topic]  # the next client subscribes again
        if self._sessions_by_topic[topic] > 0:
            return
        del self._sessions_by_topic[topic]
        if subscription is not None and not failed:
            del self._subscriptions[topic]
            if subscription.done():
                subscription.result().leave()
            else:
                subscription.add_done_callback(_leave)

    async def run(self) -> None:
        """Emit events until cancelled, one after the other, so that every client receives them in order."""
        await asyncio.gather(self._deliver_events(), self._deliver_presence())

    async def _deliver_events(self) -> None:
        while True:
            topic, event = await self._queue.get()
            try:
                if isinstance(event, Resync):
                    rooms = list(self._rooms_by_topic.get(topic, ()))
                    if rooms:
                        await self._server.emit("flow-resync", {"reason": event.reason}, room=rooms)
                    await self._remove_former_participants(topic)
                else:
                    await self._deliver_change(topic, event)
            except Exception as error:  # noqa: BLE001 - later events must be delivered
                log.error("emit failed", **describe(error))

    async def _deliver_presence(self) -> None:
        while True:
            await self._presence_changed.wait()
            await asyncio.sleep(PRESENCE_DELAY_SECONDS)
            self._presence_changed.clear()
            states, self._changed_presence = self._changed_presence, {}
            for state_id in states:
                try:
                    await self._emit_presence(state_id)
                except Exception as error:  # noqa: BLE001 - later changes must be delivered
                    log.error("emit failed", **describe(error))

    def _enqueue(self, topic: Topic, event: LiveEvent) -> None:
        self._queue.put_nowait((topic, event))

    def _on_presence_change(self, state_id: StateId) -> None:
        self._changed_presence[state_id] = None
        self._presence_changed.set()

    async def _deliver_change(self, topic: Topic, event: StateChanged) -> None:
        rooms = [flow_room(event.flow_id)]
        purpose: Purpose = "watch"
        if topic.kind == "user":
            purpose = "follow"
            rooms = [user_room(event.user_id), state_room(event.state_id)]
        sessions: list[Session] = []
        try:
            is_same = await self._state_events.is_same_for_everyone(event)
            # Nothing is awaited between this list and the emission to the rooms: nobody may enter meanwhile.
            members = self._rooms_by_topic.get(topic, {})
            sessions = [session for room in rooms for session in members.get(room, ())]
            if is_same and all(session.caller.acts_for(event.user_id) for session in sessions):
                await self._emit_change(topic, event, rooms)
                return
            own = [
                (session, await self._state_events.for_caller(event, session.caller, purpose=purpose))
                for session in sessions
            ]
        except Exception as error:  # noqa: BLE001 - the clients read their states again instead
            log.warning("change not delivered", flow=event.flow_id, **describe(error))
            sids = [session.sid for session in sessions]
            await self._server.emit("flow-resync", {"reason": "a change could not be delivered"}, room=sids)
            return
        for session, visible in own:
            if visible is not None:
                await self._emit_change(topic, visible, session.sid)
            if not session.caller.may_read(event.user_id):
                await self._end_participation(session, event, was_seen=visible is not None)

    async def _end_participation(self, session: Session, event: StateChanged, *, was_seen: bool) -> None:
        """Remove a participant from a state after the event with which its role, or the state, ended."""
        if was_seen:
            if has_ended(event) and not session.caller.service:  # another life may be without its role
                await self.leave_state(session, event.state_id)
            return
        with suppress(FlowError):
            await self._require_access(event.state_id, session.caller)
            return  # the event is from before it became a participant
        await self.leave_state(session, event.state_id)
        # It syncs, and is refused, unless it is a participant again by then.
        body = {"reason": "a state may not be seen any more"}
        await self._server.emit("flow-resync", body, room=session.sid)

    async def _remove_former_participants(self, topic: Topic) -> None:
        """Remove clients from states on which they lost their role by a change that was missed."""
        members = self._rooms_by_topic.get(topic, {}).values()
        for session in {session for room in members for session in room}:
            if topic.kind != "user" or session.caller.may_read(topic.name):
                continue
            for state_id in [each for each in session.followed if each.user_id == topic.name]:
                try:
                    await self._require_access(state_id, session.caller)
                except FlowError:  # also if it cannot be known: the client subscribes again
                    await self.leave_state(session, state_id)

    async def _emit_change(self, topic: Topic, event: StateChanged, to: str | list[str]) -> None:
        if topic.kind == "flow":
            await self._server.emit("flow-updated", flow_updated_event(event.body), room=to)
        else:
            await self._server.emit("flow-state-updated", event.body, room=to)

    async def _emit_presence(self, state_id: StateId) -> None:
        rooms = [presence_room(state_id), presence_room(state_id.flow_id)]
        if any(self._server.has_members(room) for room in rooms):
            clients = self._presence.known_on(state_id)
            body = {"flowId": state_id.flow_id, "userId": state_id.user_id, "clients": clients}
            if state_id.instance_id is not None:
                body["entityId"] = state_id.instance_id
            await self._server.emit("flow-presence", body, room=rooms)


def _succeeded(subscription: asyncio.Future[TopicSubscription]) -> bool:
    return not subscription.cancelled() and subscription.exception() is None


def _leave(subscription: asyncio.Future[TopicSubscription]) -> None:
    if _succeeded(subscription):
        subscription.result().leave()
