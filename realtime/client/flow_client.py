"""The client's operations, and what it does with what the service tells."""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any, Self

import msgspec
from msgspec import UNSET, Struct, UnsetType

from app.contracts.events import PresentClient
from app.contracts.wire.states import FlowUpdatedEvent
from realtime.client.errors import FlowClientError
from realtime.client.outgoing import checked
from realtime.client.reconnecting import ReconnectingConnection, Token
from realtime.client.requests import ACK_SECONDS, DEADLINE_SECONDS, Requests
from realtime.client.subscriptions import Reader, Source, States, Subscription, Watch, decoded
from realtime.client.sync import StateUpdate, Stats


class _StateAnswer(Struct, frozen=True):
    state: StateUpdate | None


class _PresenceAnswer(Struct, frozen=True):
    clients: list[PresentClient]


class FlowClient:
    """One user's connection to the service, kept up from ``async with`` (or ``open``) to ``close``.

    A request is repeated until it is answered or its ``deadline`` (in seconds) is over; a change is made
    once however often it is sent. FlowClientError is what the server answered, or what kept it from it.
    ``token`` is asked for at every connect; ``device`` is what presence shows to others.
    """

    def __init__(
        self, url: str, token: Token, *, device: str | None = None, ack_seconds: float = ACK_SECONDS
    ) -> None:
        self._link = ReconnectingConnection(url, token, device, self)
        self._requests = Requests(self._link, ack_seconds)
        self._subscriptions: dict[tuple[str, str | None], Subscription] = {}
        self._watches: dict[str, Watch] = {}
        self._past = Stats()
        self._open = False

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def open(self) -> None:
        """Begin to connect; needs no connection to return."""
        self._link.open()
        self._open = True

    async def close(self) -> None:
        """End the connection and all that uses it: iterators end, requests fail with CLOSED."""
        self._open = False
        sources = self._sources()
        for source in sources:
            source.finish(None)
        await asyncio.gather(*(source.task for source in sources), return_exceptions=True)
        await self._link.close()

    @property
    def stats(self) -> Stats:
        """The sums over all followings, the ended ones too."""
        sums = Stats()
        sums.add(self._past)
        for subscription in self._subscriptions.values():
            sums.add(subscription.following.stats)
        return sums

    # Requests

    async def start(
        self,
        flow_id: str,
        *,
        step: str | None = None,
        service: str | None = None,
        entity_id: str | UnsetType | None = UNSET,
        payload: dict[str, Any] | None = None,
        request_id: str | None = None,
        expected_revision: int | None = None,
        user_id: str | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> StateUpdate:
        """Start a flow; the state, which is the running one when there is one."""
        body = _body(flow_id, user_id, step=step, service=service, payload=payload)
        if entity_id is not UNSET:
            body["entityId"] = entity_id
        return await self._change("flow-start", body, request_id, expected_revision, deadline)

    async def transition(
        self,
        flow_id: str,
        transition: str,
        payload: dict[str, Any] | None = None,
        *,
        ok: bool | None = None,
        message: str | None = None,
        remove: Sequence[str] | None = None,
        request_id: str | None = None,
        expected_revision: int | None = None,
        user_id: str | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> StateUpdate:
        """Run a transition of the present step; the new state. ``remove`` are JSON pointers to members of the
        state's payload that are taken out before ``payload`` is merged into it."""
        removed = remove if remove is None or isinstance(remove, str) else list(remove)  # a text is refused
        body = _body(
            flow_id,
            user_id,
            transition=transition,
            payload=payload,
            ok=ok,
            message=message,
            remove=removed,
        )
        return await self._change("flow-transition", body, request_id, expected_revision, deadline)

    async def reset(
        self,
        flow_id: str,
        step: str | None = None,
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
        user_id: str | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> StateUpdate:
        """Begin again at the initial or the named step; the new state."""
        body = _body(flow_id, user_id, step=step)
        return await self._change("flow-reset", body, request_id, expected_revision, deadline)

    async def state(
        self, flow_id: str, *, user_id: str | None = None, deadline: float = DEADLINE_SECONDS
    ) -> StateUpdate | None:
        """The present state, None when there is none."""
        answer = await self._ask("flow-state", _body(flow_id, user_id), deadline)
        return decoded(answer, _StateAnswer).state

    async def presence(
        self, flow_id: str, user_id: str | None = None, *, deadline: float = DEADLINE_SECONDS
    ) -> list[PresentClient]:
        """The users who follow the state now, on all workers; asked by a client that follows it too, or, for
        all users, by an administrator's that watches the flow."""
        answer = await self._ask("flow-presence", _body(flow_id, user_id), deadline)
        return decoded(answer, _PresenceAnswer).clients

    async def _change(
        self,
        event: str,
        body: dict[str, Any],
        request_id: str | None,
        expected_revision: int | None,
        deadline: float,
    ) -> StateUpdate:
        body["requestId"] = request_id or str(uuid.uuid4())
        if expected_revision is not None:
            body["expectedRevision"] = expected_revision
        state = decoded(await self._ask(event, body, deadline), _StateAnswer).state
        if state is None:
            raise FlowClientError("INVALID_ANSWER", f"The server answered {event} without a state")
        return state

    async def _ask(self, event: str, body: dict[str, Any], deadline: float) -> dict[str, Any]:
        self._check_open()
        return await self._requests.ask(event, body, deadline)

    # Listening

    def follow(self, flow_id: str, *, user_id: str | None = None) -> States:
        """All states from the present one on; another user's (of services and administrators only) with
        ``user_id``."""
        self._check_open()
        key = (flow_id, user_id)
        if key not in self._subscriptions:
            body = checked(_body(flow_id, user_id))
            self._subscriptions[key] = Subscription(
                self._link, self._requests, body, lambda: self._unfollowed(key)
            )
        return States(self._subscriptions[key])

    def watch(self, flow_id: str) -> Reader[FlowUpdatedEvent]:
        """All users' changes of a flow from now on (administrators only). What happens while there is no
        connection is not told, and by a new one the last that was told may come again."""
        self._check_open()
        if flow_id not in self._watches:
            body = checked(_body(flow_id, None))
            self._watches[flow_id] = Watch(self._link, self._requests, body, lambda: self._unwatched(flow_id))
        return Reader(self._watches[flow_id])

    def _unfollowed(self, key: tuple[str, str | None]) -> None:
        ended = self._subscriptions.pop(key, None)
        if ended is not None:
            self._past.add(ended.following.stats)

    def _unwatched(self, flow_id: str) -> None:
        self._watches.pop(flow_id, None)

    def _sources(self) -> list[Source[Any]]:
        return [*self._subscriptions.values(), *self._watches.values()]

    def _check_open(self) -> None:
        if not self._open:
            raise FlowClientError("CLOSED", "The client is not open")

    # What the link tells

    def connected(self) -> None:
        """There is a connection (again): everything is listened to anew."""
        now = asyncio.get_running_loop().time()
        for source in self._sources():
            source.connected(now)

    def failed(self, error: FlowClientError) -> None:
        """There will be no connection any more."""
        for source in self._sources():
            source.finish(error)

    def heard(self, event: str, body: Any) -> None:
        """An event came."""
        if not isinstance(body, dict):
            return
        if event == "flow-state-updated":
            self._state_updated(body)
        elif event == "flow-updated":
            self._flow_updated(body)
        elif event == "flow-resync":
            now = asyncio.get_running_loop().time()
            for subscription in self._subscriptions.values():
                subscription.connected(now)
        elif event == "flow-error" and body.get("code") == "AUTHENTICATION_REQUIRED":
            self._link.drop()  # the token expired: the next connection brings a new one

    def _state_updated(self, body: dict[str, Any]) -> None:
        flow_id, user_id = body.get("flow"), body.get("userId")
        own = self._subscriptions.get((str(flow_id), None)) if user_id == self._link.user else None
        named = self._subscriptions.get((str(flow_id), str(user_id)))
        followed = [each for each in (own, named) if each is not None]
        if not followed:
            return
        now = asyncio.get_running_loop().time()
        try:
            update = msgspec.convert(body, StateUpdate)
        except msgspec.ValidationError:  # then it counts as missed
            for subscription in followed:
                subscription.connected(now)
            return
        for subscription in followed:
            subscription.heard(update, now)

    def _flow_updated(self, body: dict[str, Any]) -> None:
        watch = self._watches.get(str(body.get("flowId")))
        if watch is None:
            return
        try:
            watch.heard(decoded(body, FlowUpdatedEvent))
        except FlowClientError as error:
            watch.finish(error)


def _body(flow_id: str, user_id: str | None, **members: Any) -> dict[str, Any]:
    """A message without what was not given."""
    told = {name: value for name, value in members.items() if value is not None}
    return {"flowId": flow_id, **told} if user_id is None else {"flowId": flow_id, "userId": user_id, **told}
