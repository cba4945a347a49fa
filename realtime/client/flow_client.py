"""The client: its operations, and its handling of received events."""

import asyncio
from typing import Any, Self

import msgspec

from app.contracts.wire.states import FlowUpdatedEvent
from realtime.client.errors import FlowClientError
from realtime.client.operations import ClientOperations, named
from realtime.client.outgoing import checked
from realtime.client.reconnecting import ReconnectingConnection, Token
from realtime.client.requests import ACK_SECONDS, Requests
from realtime.client.subscriptions import Reader, Source, States, Subscription, Watch, decoded
from realtime.client.sync import StateUpdate, Stats

Key = tuple[str, str | None, str | None]
"""A flow, a user (None: the client's own) and an entity (None: none, or the one that the server finds)."""


class FlowClient(ClientOperations):
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
        super().__init__(Requests(self._connection, ack_seconds))
        self._subscriptions: dict[Key, Subscription] = {}
        self._watches: dict[str, Watch] = {}
        self._ended_stats = Stats()

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

    # Subscriptions

    def follow(self, flow_id: str, *, user_id: str | None = None, entity_id: str | None = None) -> States:
        """Iterate over all states from the present one on.

        ``user_id`` names another user, for participants of the state, services and administrators.
        ``entity_id`` names one of many states; without it, it is the only one that there is, or the iteration
        ends with ENTITY_REQUIRED.
        """
        self._check_open()
        key = (flow_id, user_id, entity_id)
        if key not in self._subscriptions:
            self._subscriptions[key] = Subscription(
                self._connection,
                self._requests,
                checked(named(flow_id, user_id, entity_id)),
                lambda: self._on_unfollowed(key),
                lambda: self._is_shared(key),
            )
        return States(self._subscriptions[key])

    def watch(self, flow_id: str) -> Reader[FlowUpdatedEvent]:
        """Iterate over all users' changes of a flow from now on (administrators only).

        Changes during an outage are missed, and after a reconnection the last one may be delivered again.
        """
        self._check_open()
        if flow_id not in self._watches:
            body = checked(named(flow_id))
            self._watches[flow_id] = Watch(
                self._connection, self._requests, body, lambda: self._on_unwatched(flow_id)
            )
        return Reader(self._watches[flow_id])

    def _on_unfollowed(self, key: Key) -> None:
        ended = self._subscriptions.pop(key, None)
        if ended is not None:
            self._ended_stats.add(ended.following.stats)

    def _is_shared(self, key: Key) -> bool:
        """Return true if another subscription is to the same state."""
        others = [other for other in self._subscriptions if other != key]
        return self._state_at(key) in map(self._state_at, others)

    def _state_at(self, key: Key) -> Key:
        flow_id, user_id, _ = key
        user_id = self._connection.user if user_id is None else user_id
        return flow_id, user_id, self._subscriptions[key].following.entity_id

    def _on_unwatched(self, flow_id: str) -> None:
        self._watches.pop(flow_id, None)

    def _sources(self) -> list[Source[Any]]:
        return [*self._subscriptions.values(), *self._watches.values()]

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
        flow_id, user_id = str(body.get("flow")), str(body.get("userId"))
        users = [None, user_id] if user_id == self._connection.user else [user_id]
        entities = [None] if body.get("entityId") is None else [None, str(body["entityId"])]
        keys = [(flow_id, user, entity) for user in users for entity in entities]
        followed = [self._subscriptions[key] for key in keys if key in self._subscriptions]
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
