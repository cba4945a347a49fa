"""The client: its operations, and its handling of received events."""

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
    """One user's connection to the service, from ``async with`` (or ``open``) to ``close``.

    A request is repeated until it is answered or its ``deadline`` (in seconds) passes; a change is executed
    once, however often it is sent. FlowClientError is the server's error, or the reason why there is no
    answer.

    Args:
        url: The address of the service.
        token: A token, or a callback that returns one; it is called for every connection.
        device: A label that presence shows to others.
        ack_seconds: A request without an answer is repeated after this time.
    """

    def __init__(
        self, url: str, token: Token, *, device: str | None = None, ack_seconds: float = ACK_SECONDS
    ) -> None:
        self._connection = ReconnectingConnection(url, token, device, self)
        self._requests = Requests(self._connection, ack_seconds)
        self._subscriptions: dict[tuple[str, str | None], Subscription] = {}
        self._watches: dict[str, Watch] = {}
        self._ended_stats = Stats()
        self._open = False

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def open(self) -> None:
        """Start to connect, in the background."""
        self._connection.open()
        self._open = True

    async def close(self) -> None:
        """End the connection. Iterators end, and requests fail with CLOSED."""
        self._open = False
        sources = self._sources()
        for source in sources:
            source.finish(None)
        await asyncio.gather(*(source.task for source in sources), return_exceptions=True)
        await self._connection.close()

    @property
    def stats(self) -> Stats:
        """The sums over all subscriptions, including those that have ended."""
        sums = Stats()
        sums.add(self._ended_stats)
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
        """Start a flow. Returns the new state, or the running one if there is one."""
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
        """Run a transition of the present step. Returns the new state.

        ``remove`` has JSON pointers to members of the state's payload that are removed before ``payload`` is
        merged into it.
        """
        removed = (
            remove if remove is None or isinstance(remove, str) else list(remove)
        )  # the server refuses a str
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
        """Restart at the initial or the given step. Returns the new state."""
        body = _body(flow_id, user_id, step=step)
        return await self._change("flow-reset", body, request_id, expected_revision, deadline)

    async def state(
        self, flow_id: str, *, user_id: str | None = None, deadline: float = DEADLINE_SECONDS
    ) -> StateUpdate | None:
        """Return the present state, None if there is none."""
        answer = await self._request("flow-state", _body(flow_id, user_id), deadline)
        return decoded(answer, _StateAnswer).state

    async def presence(
        self, flow_id: str, user_id: str | None = None, *, deadline: float = DEADLINE_SECONDS
    ) -> list[PresentClient]:
        """Return the clients that follow a state now, on all workers.

        The client must follow that state itself; to list the clients of all users it must watch the flow.
        """
        answer = await self._request("flow-presence", _body(flow_id, user_id), deadline)
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
        state = decoded(await self._request(event, body, deadline), _StateAnswer).state
        if state is None:
            raise FlowClientError("INVALID_ANSWER", f"The server answered {event} without a state")
        return state

    async def _request(self, event: str, body: dict[str, Any], deadline: float) -> dict[str, Any]:
        self._check_open()
        return await self._requests.send(event, body, deadline)

    # Subscriptions

    def follow(self, flow_id: str, *, user_id: str | None = None) -> States:
        """Iterate over all states from the present one on.

        ``user_id`` names another user (services and administrators only).
        """
        self._check_open()
        key = (flow_id, user_id)
        if key not in self._subscriptions:
            body = checked(_body(flow_id, user_id))
            self._subscriptions[key] = Subscription(
                self._connection, self._requests, body, lambda: self._on_unfollowed(key)
            )
        return States(self._subscriptions[key])

    def watch(self, flow_id: str) -> Reader[FlowUpdatedEvent]:
        """Iterate over all users' changes of a flow from now on (administrators only).

        Changes during an outage are missed, and after a reconnection the last one may be delivered again.
        """
        self._check_open()
        if flow_id not in self._watches:
            body = checked(_body(flow_id, None))
            self._watches[flow_id] = Watch(
                self._connection, self._requests, body, lambda: self._on_unwatched(flow_id)
            )
        return Reader(self._watches[flow_id])

    def _on_unfollowed(self, key: tuple[str, str | None]) -> None:
        ended = self._subscriptions.pop(key, None)
        if ended is not None:
            self._ended_stats.add(ended.following.stats)

    def _on_unwatched(self, flow_id: str) -> None:
        self._watches.pop(flow_id, None)

    def _sources(self) -> list[Source[Any]]:
        return [*self._subscriptions.values(), *self._watches.values()]

    def _check_open(self) -> None:
        if not self._open:
            raise FlowClientError("CLOSED", "The client is not open")

    # Listener of the connection

    def connected(self) -> None:
        """Renew all subscriptions on a new connection."""
        now = asyncio.get_running_loop().time()
        for source in self._sources():
            source.connected(now)

    def failed(self, error: FlowClientError) -> None:
        """End all subscriptions: the connection failed for good."""
        for source in self._sources():
            source.finish(error)

    def event_received(self, event: str, body: Any) -> None:
        """Dispatch an event."""
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
            self._connection.reconnect()  # the token expired: the next connection gets a new one

    def _state_updated(self, body: dict[str, Any]) -> None:
        flow_id, user_id = body.get("flow"), body.get("userId")
        own = self._subscriptions.get((str(flow_id), None)) if user_id == self._connection.user else None
        named = self._subscriptions.get((str(flow_id), str(user_id)))
        followed = [each for each in (own, named) if each is not None]
        if not followed:
            return
        now = asyncio.get_running_loop().time()
        try:
            update = msgspec.convert(body, StateUpdate)
        except msgspec.ValidationError:  # treat it as missed
            for subscription in followed:
                subscription.connected(now)
            return
        for subscription in followed:
            subscription.event_received(update, now)

    def _flow_updated(self, body: dict[str, Any]) -> None:
        watch = self._watches.get(str(body.get("flowId")))
        if watch is None:
            return
        try:
            watch.event_received(decoded(body, FlowUpdatedEvent))
        except FlowClientError as error:
            watch.finish(error)


def _body(flow_id: str, user_id: str | None, **members: Any) -> dict[str, Any]:
    """Build a message without the members that are None."""
    given = {name: value for name, value in members.items() if value is not None}
    return (
        {"flowId": flow_id, **given} if user_id is None else {"flowId": flow_id, "userId": user_id, **given}
    )
