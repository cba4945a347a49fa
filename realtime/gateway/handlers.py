"""The Socket.IO door: authenticates, decodes, calls one service method, answers."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from msgspec import ValidationError
from starlette.types import ASGIApp

from app.auth.policy import ADMIN, acting_for, require_scope
from app.auth.tokens import TokenVerifier
from app.contracts.commands import Origin
from app.contracts.errors import (
    AuthenticationRequiredError,
    Fault,
    FlowError,
    InternalError,
    InvalidRequestError,
    RateLimitedError,
)
from app.contracts.events import flow_topic, user_topic
from app.contracts.positions import ExpectedPosition, held_position
from app.contracts.state import FlowState
from app.contracts.wire.errors import error_view
from app.contracts.wire.states import caught_up_view, state_view
from app.flow.values.struct_errors import faults_of
from app.kit.integers import convert_json
from app.kit.tasks import end_tasks
from app.services import FlowService
from config.log import describe
from realtime.gateway.bounded_server import GONE, Server, wants_ack
from realtime.gateway.limits import CONNECTIONS_OF_A_USER, REFUSALS, SUBSCRIPTIONS
from realtime.gateway.messages import (
    FlowMessage,
    ResetMessage,
    StartMessage,
    SubscribeMessage,
    TransitionMessage,
)
from realtime.gateway.rooms import Rooms, flow_room, presence_room, state_room, user_room
from realtime.gateway.session import Client, device_of, token_of
from realtime.gateway.socketio_library import socketio
from realtime.json_packets import Json

log = structlog.get_logger("sockets")

LONGEST_TIMER_SECONDS = 86_400.0

M = TypeVar("M", bound=FlowMessage)
Answer = dict[str, Any]


class FlowSockets:
    """One worker's Socket.IO clients."""

    def __init__(
        self,
        service: FlowService,
        verifier: TokenVerifier,
        *,
        transports: list[str],
        cors_origins: list[str],
        max_message_bytes: int,
        names_user_by_subject: bool = True,
    ) -> None:
        self._service = service
        self._verifier = verifier
        self._names_user_by_subject = names_user_by_subject
        self._clients: dict[str, Client] = {}
        self._users: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Future[None]] = set()
        self.server = Server(
            async_mode="asgi",
            transports=transports,
            allowed_origins=cors_origins,
            max_http_buffer_size=max_message_bytes,
            # One client's events are handled in their order: it may send the second before the
            # answer to the first.
            async_handlers=False,
            json=Json,
        )
        self._rooms = Rooms(self.server, service)
        self.server.on("connect", self._connect)
        self.server.on("disconnect", self._disconnect)
        self._on("flow-state", FlowMessage, self._state)
        self._on("flow-start", StartMessage, self._start)
        self._on("flow-transition", TransitionMessage, self._transition)
        self._on("flow-reset", ResetMessage, self._reset)
        self._on("flow-subscribe", SubscribeMessage, self._subscribe)
        self._on("flow-unsubscribe", FlowMessage, self._unsubscribe)
        self._on("flow-watch", FlowMessage, self._watch)
        self._on("flow-unwatch", FlowMessage, self._unwatch)
        self._on("flow-presence", FlowMessage, self._presence)
        self.server.on("*", self._unknown)

    def application(self, http: ASGIApp) -> ASGIApp:
        """Return an ASGI application that answers Socket.IO itself, and everything else by ``http``."""
        joined: ASGIApp = socketio.ASGIApp(self.server, other_asgi_app=http)
        return joined

    def start(self) -> None:
        """Begin to tell clients of changes."""
        self._task = asyncio.create_task(self._rooms.run())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            await end_tasks([self._task])

    # Clients

    async def _connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        try:
            caller = await self._verifier.verify(token_of(environ, auth))
            client = Client(sid, caller, device_of(auth))
            if self._users[caller.user_id] >= CONNECTIONS_OF_A_USER * client.share:
                raise RateLimitedError("This user has more connections here than it may", 5)
            self._users[caller.user_id] += 1
            self._clients[sid] = client
            try:
                await self._rooms.enter(client, user_room(caller.user_id), user_topic(caller.user_id))
                if environ.get(GONE):
                    raise AuthenticationRequiredError("This connection has ended")
            except BaseException:
                await self._disconnect(sid)
                raise
        except FlowError as error:
            raise socketio.exceptions.ConnectionRefusedError(error.code, error_view(error)) from None
        self._set_timer(client)

    async def _disconnect(self, sid: str, *_: object) -> None:
        client = self._clients.pop(sid, None)
        if client is None:
            return
        client.gone = True
        if client.timer is not None:
            client.timer.cancel()
        self._users[client.user_id] -= 1
        if not self._users[client.user_id]:
            del self._users[client.user_id]
        for flow_id, user_id in list(client.followed):
            await self._leave_state(client, flow_id, user_id)
        for room in list(client.rooms):
            await self._rooms.leave(client, room)

    def _set_timer(self, client: Client) -> None:
        left = max(0.0, client.caller.expires_at - time.time())
        loop = asyncio.get_running_loop()
        client.timer = loop.call_later(min(left, LONGEST_TIMER_SECONDS), self._check_token, client)

    def _check_token(self, client: Client) -> None:
        """A token that has expired ends the connection: the client connects with a new one."""
        if client.caller.expires_at > time.time():
            self._set_timer(client)
            return
        self._end(client, AuthenticationRequiredError("The token has expired; connect with a new one"))

    def _end(self, client: Client, error: FlowError) -> None:
        task = asyncio.ensure_future(self.server.end(client.sid, error))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    # Events in

    def _on(self, event: str, shape: type[M], handle: Callable[[Client, str, M], Awaitable[Answer]]) -> None:
        async def handler(sid: str, *bodies: Any) -> Answer:
            try:
                client = self._admit(sid)
                message = _decode(bodies, shape)
                answer = await handle(client, acting_for(client.caller, message.user_id), message)
            except FlowError as error:
                return await self._refuse(sid, event, error)
            except Exception as error:  # noqa: BLE001 - no ack is left unanswered
                log.error("event failed", event_name=event, **describe(error))
                return await self._refuse(sid, event, InternalError())
            return {"ok": True, **answer}

        self.server.on(event, handler)

    def _admit(self, sid: str) -> Client:
        """The client of an event, if it may send one now."""
        client = self._clients[sid]
        if client.caller.expires_at <= time.time():
            raise AuthenticationRequiredError("The token has expired; connect with a new one")
        seconds = client.bucket.take()
        if seconds:
            error = RateLimitedError("This client sends more events than it may", seconds)
            if client.bucket.refused == REFUSALS:
                log.warning("client sends too much", user=client.user_id)
                self._end(client, error)
            raise error
        return client

    async def _refuse(self, sid: str, event: str, error: FlowError) -> Answer:
        if event == "flow-transition" and not wants_ack.get():
            await self.server.refuse(sid, error)
        return {"ok": False, "error": error_view(error)}

    async def _unknown(self, event: str, sid: str, *_: Any) -> Answer:
        try:
            self._admit(sid)
            raise InvalidRequestError([Fault("", f"there is no event {event[:64]!r}")])
        except FlowError as error:
            return await self._refuse(sid, event, error)

    async def _state(self, client: Client, user_id: str, message: FlowMessage) -> Answer:
        return _answer(await self._service.get_flow_state(user_id, message.flow_id, caller=client.caller))

    async def _start(self, client: Client, user_id: str, message: StartMessage) -> Answer:
        state, started = await self._service.start_flow(
            user_id, message.flow_id, message.command(), origin=_origin(client, message)
        )
        return {**_answer(state), "started": started}

    async def _transition(self, client: Client, user_id: str, message: TransitionMessage) -> Answer:
        state = await self._service.execute_transition(
            user_id,
            message.flow_id,
            message.transition,
            message.payload,
            ok=message.ok,
            message=message.message,
            remove=message.remove,
            origin=_origin(client, message),
        )
        return _answer(state)

    async def _reset(self, client: Client, user_id: str, message: ResetMessage) -> Answer:
        state = await self._service.reset_flow(
            user_id, message.flow_id, message.step, origin=_origin(client, message)
        )
        return _answer(state)

    # Following

    async def _subscribe(self, client: Client, user_id: str, message: SubscribeMessage) -> Answer:
        held = held_position(message.epoch, message.since, message.from_start)
        flow_id, place = message.flow_id, (message.flow_id, user_id)
        fresh = place not in client.followed
        if fresh:
            _require_room(client)
            client.followed.add(place)
        try:
            if fresh and user_id != client.user_id:
                await self._rooms.enter(client, state_room(*place), user_topic(user_id))
            # The room first, the state second: what is committed after this read is told to the room.
            found = await self._service.get_flow_events(user_id, flow_id, held, caller=client.caller)
        except BaseException:
            if fresh:
                await self._leave_state(client, flow_id, user_id)
            raise
        if user_id == client.user_id and not client.gone:
            self._service.presence.enter(flow_id, client.present)
        answer = caught_up_view(found)
        # Events name their user; a client cannot tell its own where another claim than `sub` names it.
        return answer if self._names_user_by_subject else {**answer, "userId": user_id}

    async def _unsubscribe(self, client: Client, user_id: str, message: FlowMessage) -> Answer:
        await self._leave_state(client, message.flow_id, user_id)
        return {}

    async def _leave_state(self, client: Client, flow_id: str, user_id: str) -> None:
        client.followed.discard((flow_id, user_id))
        if user_id == client.user_id:
            self._service.presence.leave(flow_id, client.present)
        await self._rooms.leave(client, presence_room(flow_id, user_id))
        await self._rooms.leave(client, state_room(flow_id, user_id))

    async def _watch(self, client: Client, _: str, message: FlowMessage) -> Answer:
        require_scope(client.caller, ADMIN)
        flow_id = message.flow_id
        await self._service.definitions.versions(flow_id, client.caller, limit=1)
        if flow_id not in client.watched:
            _require_room(client)
            await self._rooms.enter(client, flow_room(flow_id), flow_topic(flow_id))
            client.watched.add(flow_id)
        return {}

    async def _unwatch(self, client: Client, _: str, message: FlowMessage) -> Answer:
        client.watched.discard(message.flow_id)
        await self._rooms.leave(client, presence_room(message.flow_id, None))
        await self._rooms.leave(client, flow_room(message.flow_id))
        return {}

    async def _presence(self, client: Client, user_id: str, message: FlowMessage) -> Answer:
        """Answer with the clients present, and send each change from then on."""
        flow_id = message.flow_id
        of = None if flow_id in client.watched and message.user_id is None else user_id
        if of is not None and (flow_id, of) not in client.followed:
            raise InvalidRequestError(
                [Fault("/flowId", "follow the state first (flow-subscribe), or watch the flow (flow-watch)")]
            )
        room = presence_room(flow_id, of)
        if room not in client.rooms:
            await self._rooms.enter(client, room, flow_topic(flow_id) if of is None else user_topic(of))
        return {"clients": await self._service.presence.clients_on(flow_id, of)}


def _require_room(client: Client) -> None:
    if len(client.followed) + len(client.watched) >= SUBSCRIPTIONS:
        fault = f"this client follows {SUBSCRIPTIONS} states and flows, the most; unsubscribe from one first"
        raise InvalidRequestError([Fault("/flowId", fault)])


def _decode(bodies: tuple[Any, ...], shape: type[M]) -> M:
    body = bodies[0] if len(bodies) == 1 else None
    try:
        message = convert_json(body, shape)
    except (ValidationError, RecursionError, UnicodeEncodeError):
        raise InvalidRequestError(faults_of(body, shape)) from None
    faults = [
        Fault(f"/{name}", "is no Unicode text: it has half of a surrogate pair")
        for name, value in body.items()  # type: ignore[union-attr] # it has the shape
        if isinstance(value, str) and not _is_text(value)
    ]
    if faults:
        raise InvalidRequestError(faults)
    return message


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _origin(client: Client, message: Any) -> Origin:
    expected = message.expected_revision
    return Origin(
        actor=client.user_id,
        request_id=message.request_id,
        client="socket",
        caller=client.caller,
        expected=None if expected is None else ExpectedPosition(expected),
    )


def _answer(state: FlowState | None) -> Answer:
    return {"state": None if state is None else state_view(state)}
