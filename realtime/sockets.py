"""The Socket.IO door: authenticates, decodes, calls one service method, answers; and tells each
client of the changes of its user's states."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import socketio
import structlog
from msgspec import ValidationError, convert, structs

from app.auth.permissions import acting_for
from app.auth.tokens import TokenVerifier
from app.contracts.command import Caller, ExpectedPosition, Origin
from app.contracts.errors import (
    AuthenticationRequiredError,
    Fault,
    FlowError,
    InternalError,
    InvalidRequestError,
)
from app.contracts.events import Event, StateChanged
from app.contracts.state import FlowState, state_key
from app.contracts.views import ErrorView, error_view, state_view
from app.flow.faults import faults_of
from app.services import FlowService
from config.log import describe
from realtime.bus import RedisBus
from realtime.messages import (
    FlowMessage,
    Json,
    ResetMessage,
    StartMessage,
    TransitionMessage,
)
from realtime.server import Server, wants_ack

log = structlog.get_logger("sockets")

MAX_TIMER_SECONDS = 86_400.0
"""A connection is asked for a new token once a day at the latest."""

M = TypeVar("M", bound=FlowMessage)
Answer = dict[str, Any]


class FlowSockets:
    """One worker's Socket.IO clients."""

    def __init__(
        self,
        service: FlowService,
        verifier: TokenVerifier,
        bus: RedisBus,
        *,
        transports: list[str],
        cors_origins: list[str],
        max_message_bytes: int,
    ) -> None:
        self._service = service
        self._verifier = verifier
        self._clients: dict[str, asyncio.TimerHandle] = {}
        self._users: Counter[str] = Counter()
        self._told: dict[str, dict[str, tuple[str, int]]] = {}
        self._events: asyncio.Queue[StateChanged | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Future[None]] = set()
        self.server = Server(
            async_mode="asgi",
            transports=transports,
            cors_allowed_origins=cors_origins or None,
            max_http_buffer_size=max_message_bytes,
            # One client's events are handled in their order: it may send the second before the
            # answer to the first.
            async_handlers=False,
            json=Json,
        )
        bus.subscribe(self._heard)
        bus.on_resume(lambda: self._events.put_nowait(None))
        self.server.on("connect", self._connect)
        self.server.on("disconnect", self._disconnect)
        self._on("flow-state", FlowMessage, self._state)
        self._on("flow-start", StartMessage, self._start)
        self._on("flow-transition", TransitionMessage, self._transition)
        self._on("flow-reset", ResetMessage, self._reset)
        self.server.on("*", self._unknown)

    def start(self) -> None:
        """Begin to tell clients of changes."""
        self._task = asyncio.create_task(self._emit())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # Clients

    async def _connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        try:
            caller = await self._verifier.verify(_token_of(environ, auth))
        except FlowError as error:
            raise socketio.exceptions.ConnectionRefusedError(error.code, error_view(error)) from None
        await self.server.save_session(sid, {"caller": caller})
        self._users[caller.user_id] += 1
        left = max(0.0, caller.expires_at - time.time())
        loop = asyncio.get_running_loop()
        self._clients[sid] = loop.call_later(min(left, MAX_TIMER_SECONDS), self._end_when_expired, sid)
        await self.server.enter_room(sid, _room(caller.user_id))

    async def _disconnect(self, sid: str, *_: object) -> None:
        caller: Caller | None = (await self.server.get_session(sid)).get("caller")
        timer = self._clients.pop(sid, None)
        if caller is None or timer is None:
            return
        timer.cancel()
        self._users[caller.user_id] -= 1
        if self._users[caller.user_id] <= 0:
            del self._users[caller.user_id]
            self._told.pop(caller.user_id, None)

    def _end_when_expired(self, sid: str) -> None:
        task = asyncio.ensure_future(self._end(sid))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, sid: str) -> None:
        """A token that has expired ends the connection: the client connects with a new one."""
        view = error_view(AuthenticationRequiredError("The token has expired; connect with a new one"))
        await self.server.emit("flow-error", _flow_error(view), to=sid)
        await self.server.disconnect(sid)

    # Events in

    def _on(self, event: str, shape: type[M], handle: Callable[[Caller, str, M], Awaitable[Answer]]) -> None:
        async def handler(sid: str, *bodies: Any) -> Answer:
            try:
                caller: Caller = (await self.server.get_session(sid))["caller"]
                if caller.expires_at <= time.time():
                    raise AuthenticationRequiredError("The token has expired; connect with a new one")
                message = _decode(bodies, shape)
                answer = await handle(caller, acting_for(caller, message.user_id), message)
            except FlowError as error:
                return await self._refuse(sid, event, error)
            except Exception as error:  # noqa: BLE001 - no ack is left unanswered
                log.error("event failed", event_name=event, **describe(error))
                return await self._refuse(sid, event, InternalError())
            return {"ok": True, **answer}

        self.server.on(event, handler)

    async def _refuse(self, sid: str, event: str, error: FlowError) -> Answer:
        view = error_view(error)
        if event == "flow-transition" and not wants_ack.get():
            await self.server.emit("flow-error", _flow_error(view), to=sid)
        return {"ok": False, "error": view}

    async def _unknown(self, event: str, sid: str, *_: Any) -> Answer:
        refusal = InvalidRequestError([Fault("", f"there is no event {event[:64]!r}")])
        return await self._refuse(sid, event, refusal)

    async def _state(self, _: Caller, user_id: str, message: FlowMessage) -> Answer:
        return _answer(await self._service.get_flow_state(user_id, message.flow_id))

    async def _start(self, caller: Caller, user_id: str, message: StartMessage) -> Answer:
        state, started = await self._service.start_flow(
            user_id, message.flow_id, message.command(), origin=_origin(caller, message)
        )
        return {**_answer(state), "started": started}

    async def _transition(self, caller: Caller, user_id: str, message: TransitionMessage) -> Answer:
        state = await self._service.execute_transition(
            user_id,
            message.flow_id,
            message.transition,
            message.payload,
            ok=message.ok,
            message=message.message,
            origin=_origin(caller, message),
        )
        return _answer(state)

    async def _reset(self, caller: Caller, user_id: str, message: ResetMessage) -> Answer:
        state = await self._service.reset_flow(
            user_id, message.flow_id, message.step, origin=_origin(caller, message)
        )
        return _answer(state)

    # Events out

    def _heard(self, event: Event) -> None:
        if isinstance(event, StateChanged) and event.user_id in self._users:
            self._events.put_nowait(event)

    async def _emit(self) -> None:
        while True:
            event = await self._events.get()
            try:
                if event is None:
                    await self.server.emit("flow-resync", {"reason": "this worker missed events"})
                elif self._is_news(event):
                    await self.server.emit("flow-state-updated", event.body, room=_room(event.user_id))
            except Exception as error:  # noqa: BLE001 - the next client must hear
                log.error("emit failed", **describe(error))

    def _is_news(self, event: StateChanged) -> bool:
        """Whether no later change of this state was told already. A change may come twice, as
        every worker that commits on top of it sends it again; never after a later one."""
        if event.user_id not in self._users:
            return False
        told = self._told.setdefault(event.user_id, {})
        key = state_key(event.flow_id, event.user_id)
        epoch, revision = told.get(key, ("", -1))
        if event.epoch < epoch or (event.epoch == epoch and event.revision <= revision):
            return False
        told[key] = (event.epoch, event.revision)
        return True


def _flow_error(view: ErrorView) -> Answer:
    told = structs.asdict(view)
    return {"error": told.pop("message"), **told}


def _room(user_id: str) -> str:
    return f"user:{user_id}"


def _token_of(environ: dict[str, Any], auth: Any) -> str | None:
    if isinstance(auth, dict) and isinstance(auth.get("token"), str):
        return str(auth["token"])
    scheme, _, token = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _decode(bodies: tuple[Any, ...], shape: type[M]) -> M:
    body = bodies[0] if len(bodies) == 1 else None
    try:
        return convert(body, shape)
    except (ValidationError, RecursionError):
        raise InvalidRequestError(faults_of(body, shape)) from None


def _origin(caller: Caller, message: Any) -> Origin:
    expected = message.expected_revision
    return Origin(
        actor=caller.user_id,
        request_id=message.request_id,
        client="socket",
        expected=None if expected is None else ExpectedPosition(expected),
    )


def _answer(state: FlowState | None) -> Answer:
    return {"state": None if state is None else state_view(state)}
