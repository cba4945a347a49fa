"""Handlers of Socket.IO events: each authenticates, decodes, calls one service method and answers."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec

import structlog
from starlette.types import ASGIApp

from app.auth.policy import named_user, require_access
from app.auth.service_keys import RENEWAL_SECONDS
from app.auth.tokens import TokenVerifier
from app.contracts.errors import (
    AuthenticationRequiredError,
    Fault,
    FlowError,
    InsufficientPermissionsError,
    InternalError,
    InvalidRequestError,
    RateLimitedError,
)
from app.contracts.events import flow_topic, user_topic
from app.contracts.positions import held_position
from app.contracts.state import StateId
from app.contracts.wire.errors import error_view
from app.contracts.wire.states import caught_up_view
from app.kit.client_address import client_address
from app.kit.tasks import end_tasks
from app.services import FlowService
from app.services.audit.source import acting_from
from app.services.rates.admission import Admission
from config.log import describe
from realtime.gateway.access import EVENT_ACCESS
from realtime.gateway.bounded_server import ENVIRON_DISCONNECTED, BoundedServer, wants_ack
from realtime.gateway.limits import MAX_REFUSALS, MAX_SUBSCRIPTIONS
from realtime.gateway.messages import (
    ChangeMessage,
    ClaimMessage,
    FlowMessage,
    ListMessage,
    M,
    ParticipantsMessage,
    ResetMessage,
    StartMessage,
    SubscribeMessage,
    TransitionMessage,
    decode_message,
)
from realtime.gateway.requests import StateRequests
from realtime.gateway.rooms import Rooms, flow_room, presence_room, state_room, user_room
from realtime.gateway.session import Session, device_of, token_of
from realtime.gateway.socketio_library import socketio
from realtime.json_packets import Json

log = structlog.get_logger("sockets")

SOCKETS_PATH = "/socket.io"
MAX_TIMER_SECONDS = 86_400.0

Answer = dict[str, Any]
P = ParamSpec("P")


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
        self._limits = service.clients
        self._admission = Admission(service.clients.requests, verifier)
        self._names_user_by_subject = names_user_by_subject
        self._sessions: dict[str, Session] = {}
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Future[None]] = set()
        self.server = BoundedServer(
            async_mode="asgi",
            transports=transports,
            allowed_origins=cors_origins,
            max_http_buffer_size=max_message_bytes,
            # In order: a client may send its second event before the answer to the first.
            async_handlers=False,
            json=Json,
        )
        self._rooms = Rooms(self.server, service)
        self.server.on("connect", self._connect)
        self.server.on("disconnect", self._disconnect)
        requests = StateRequests(service)
        self._on("flow-state", FlowMessage, requests.state)
        self._on("flow-start", StartMessage, requests.start)
        self._on("flow-transition", TransitionMessage, requests.transition)
        self._on("flow-reset", ResetMessage, requests.reset)
        self._on("flow-participants", ParticipantsMessage, requests.assign)
        self._on("flow-claim", ClaimMessage, requests.claim)
        self._on("flow-release", ClaimMessage, requests.release)
        self._on("flow-withdraw", ChangeMessage, requests.withdraw)
        self._on("flow-list", ListMessage, requests.list)
        self._on("flow-subscribe", SubscribeMessage, self._subscribe)
        self._on("flow-unsubscribe", FlowMessage, self._unsubscribe)
        self._on("flow-watch", FlowMessage, self._watch)
        self._on("flow-unwatch", FlowMessage, self._unwatch)
        self._on("flow-presence", FlowMessage, self._presence)
        self.server.on("*", self._unknown)

    def application(self, http: ASGIApp) -> ASGIApp:
        """Return an ASGI application that answers Socket.IO itself, and everything else by ``http``."""
        combined: ASGIApp = socketio.ASGIApp(self.server, other_asgi_app=http)
        return combined

    def start(self) -> None:
        """Start delivering changes to clients."""
        self._task = asyncio.create_task(self._rooms.run())

    async def stop(self) -> None:
        """Stop delivering changes."""
        if self._task is not None:
            await end_tasks([self._task])

    # Clients

    async def _connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        try:
            address = client_address(environ.get("asgi.scope", {}))
            caller = await self._admission.admit(token_of(environ, auth), address)
            require_access(EVENT_ACCESS["connect"], caller)
            device, connection = device_of(auth), self._limits.connections.open(caller, address)
            session = Session(sid, caller, device, connection, address)
            self._sessions[sid] = session
            try:
                await self._rooms.enter(session, user_room(caller.user_id), user_topic(caller.user_id))
                if environ.get(ENVIRON_DISCONNECTED):
                    raise AuthenticationRequiredError("This connection has ended")
            except BaseException:
                await self._disconnect(sid)
                raise
        except FlowError as error:
            raise socketio.exceptions.ConnectionRefusedError(error.code, error_view(error)) from None
        self._set_timer(session)

    async def _disconnect(self, sid: str, *_: object) -> None:
        session = self._sessions.pop(sid, None)
        if session is None:
            return
        session.disconnected = True
        if session.timer is not None:
            session.timer.cancel()
        session.connection.close()
        for state_id in list(session.followed):
            await self._rooms.leave_state(session, state_id)
        for room in list(session.rooms):
            await self._rooms.leave(session, room)

    def _set_timer(self, session: Session) -> None:
        left = max(0.0, session.caller.expires_at - time.time())
        loop = asyncio.get_running_loop()
        longest = RENEWAL_SECONDS if session.caller.credential else MAX_TIMER_SECONDS
        session.timer = loop.call_later(min(left, longest), self._start, self._renew, session)

    async def _renew(self, session: Session) -> None:
        """End the connection if its token or its key is not valid any more: the client needs a new one."""
        try:
            session.caller = await self._verifier.renew(session.caller)
        except FlowError as error:
            await self.server.end(session.sid, error)
            return
        except Exception as error:  # noqa: BLE001 - a connection that cannot be checked must end
            log.error("token check failed", **describe(error))
            await self.server.end(session.sid, InternalError())
            return
        if not session.disconnected:
            self._set_timer(session)

    def _end(self, session: Session, error: FlowError) -> None:
        self._start(self.server.end, session.sid, error)

    def _start(self, work: Callable[P, Coroutine[Any, Any, None]], *given: P.args, **named: P.kwargs) -> None:
        task = asyncio.ensure_future(work(*given, **named))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Events in

    def _on(self, event: str, shape: type[M], handle: Callable[[Session, str, M], Awaitable[Answer]]) -> None:
        access = EVENT_ACCESS[event]

        async def handler(sid: str, *bodies: Any) -> Answer:
            try:
                session = self._admit(sid)
                require_access(access, session.caller)
                message = decode_message(bodies, shape)
                with acting_from(session.source):
                    answer = await handle(session, message.user_id or session.user_id, message)
            except FlowError as error:
                return await self._refuse(sid, event, error)
            except Exception as error:  # noqa: BLE001 - no ack is left unanswered
                log.error("event handler failed", event_name=event, **describe(error))
                return await self._refuse(sid, event, InternalError())
            return {"ok": True, **answer}

        self.server.on(event, handler)

    def _admit(self, sid: str) -> Session:
        """Return the session of an event, if the client may send one now."""
        session = self._sessions[sid]
        if session.caller.expires_at <= time.time():
            raise AuthenticationRequiredError("The token has expired; connect with a new one")
        seconds = session.bucket.take()
        try:
            if seconds:
                raise RateLimitedError("This client sends too many events; send fewer", seconds)
            self._limits.requests.admit_caller(session.caller)
        except RateLimitedError as error:
            if not seconds:
                session.bucket.refused += 1
            if session.bucket.refused == MAX_REFUSALS:
                log.warning("event rate exceeded", user=session.user_id)
                self._end(session, error)
            raise
        return session

    async def _refuse(self, sid: str, event: str, error: FlowError) -> Answer:
        if event == "flow-transition" and not wants_ack.get():
            await self.server.send_error(sid, error)
        return {"ok": False, "error": error_view(error)}

    async def _unknown(self, event: str, sid: str, *_: Any) -> Answer:
        try:
            self._admit(sid)
            raise InvalidRequestError([Fault("", f"unknown event {event[:64]!r}")])
        except FlowError as error:
            return await self._refuse(sid, event, error)

    # Subscriptions

    async def _subscribe(self, session: Session, user_id: str, message: SubscribeMessage) -> Answer:
        held = held_position(message.epoch, message.since, message.from_start)
        state_id = await self._service.identification.of(
            user_id, message.flow_id, message.entity_id, session.caller
        )
        is_new = False
        try:
            if (
                user_id != session.user_id
            ):  # before the room, whose events are for those who may see the state
                await self._service.catch_up.require_access(state_id, session.caller)
            is_new = state_id not in session.followed
            if is_new:
                _require_capacity(session)
                session.followed.add(state_id)
            if is_new and user_id != session.user_id:
                await self._rooms.enter(session, state_room(state_id), user_topic(user_id))
            # The room first, the state second: changes committed after this read are delivered to the room.
            found = await self._service.catch_up.for_subscriber(state_id, held, session.caller)
        except BaseException as error:
            refused = isinstance(error, InsufficientPermissionsError)
            if is_new or refused or state_id not in session.followed:
                await self._rooms.leave_state(session, state_id)
            raise
        if session.is_person_on(user_id) and not session.disconnected:
            self._service.presence.enter(state_id, session.presence)
        if message.entity_id is None:
            await self._remember(session, state_id)
        answer = caught_up_view(found)
        if state_id.instance_id is not None:
            answer["entityId"] = state_id.instance_id
        # Events name their user. Unless `sub` names it, a client does not know its own.
        knows_user = self._names_user_by_subject and not session.caller.service
        return answer if knows_user else {**answer, "userId": user_id}

    async def _unsubscribe(self, session: Session, user_id: str, message: FlowMessage) -> Answer:
        state_id = StateId(message.flow_id, user_id, message.entity_id)
        if message.entity_id is None:
            state_id = session.found.get(state_id, state_id)
        await self._rooms.leave_state(session, state_id)
        return {}

    async def _remember(self, session: Session, found: StateId) -> None:
        """Record the state that a client follows without its entity, and leave the one before."""
        unnamed = StateId(found.flow_id, found.user_id)
        before = session.found.get(unnamed, unnamed)
        if before != found:
            await self._rooms.leave_state(session, before)
        if found != unnamed:
            session.found[unnamed] = found

    async def _watch(self, session: Session, _: str, message: FlowMessage) -> Answer:
        flow_id = message.flow_id
        await self._service.definitions.versions(flow_id, session.caller, limit=1)
        if flow_id not in session.watched:
            _require_capacity(session)
            await self._rooms.enter(session, flow_room(flow_id), flow_topic(flow_id))
            session.watched.add(flow_id)
        return {}

    async def _unwatch(self, session: Session, _: str, message: FlowMessage) -> Answer:
        session.watched.discard(message.flow_id)
        await self._rooms.leave(session, presence_room(message.flow_id))
        await self._rooms.leave(session, flow_room(message.flow_id))
        return {}

    async def _presence(self, session: Session, user_id: str, message: FlowMessage) -> Answer:
        """Answer with the present clients, and emit every change from then on."""
        flow_id = message.flow_id
        where: StateId | str = flow_id
        if flow_id not in session.watched or message.user_id is not None:
            where = await self._followed(session, user_id, message)
        room = presence_room(where)
        if room not in session.rooms:
            topic = flow_topic(flow_id) if isinstance(where, str) else user_topic(where.user_id)
            await self._rooms.enter(session, room, topic)
        return {"clients": await self._service.presence.clients_on(where)}

    async def _followed(self, session: Session, user_id: str, message: FlowMessage) -> StateId:
        """Return the state that a client names, which it must follow."""
        state_id = await self._service.identification.of(
            user_id, message.flow_id, message.entity_id, session.caller
        )
        if state_id not in session.followed:
            named_user(session.caller, user_id)
            advice = "subscribe to the state (flow-subscribe) or watch the flow (flow-watch) first"
            raise InvalidRequestError([Fault("/flowId", advice)])
        try:
            await self._service.catch_up.require_access(state_id, session.caller)
        except InsufficientPermissionsError:
            await self._rooms.leave_state(session, state_id)
            raise
        return state_id


def _require_capacity(session: Session) -> None:
    if len(session.followed) + len(session.watched) >= MAX_SUBSCRIPTIONS:
        fault = f"this client has {MAX_SUBSCRIPTIONS} subscriptions, the maximum; unsubscribe from one first"
        raise InvalidRequestError([Fault("/flowId", fault)])
