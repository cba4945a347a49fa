"""Presence: the clients that follow a state now, over all workers.

Every worker knows its own clients. Workers that are subscribed to the same user or flow report theirs to each
other, and drop those of a worker that is lost.
"""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from app.contracts.errors import BusUnavailableError
from app.contracts.events import (
    Event,
    Gap,
    PresenceQuery,
    PresenceReport,
    PresentClient,
    Topic,
    flow_topic,
    user_topic,
)
from app.contracts.ports.bus import EventBus
from app.kit.ids import new_id
from config.log import describe

log = structlog.get_logger("presence")

MAX_ANSWER_SECONDS = 1.0
"""How long a query waits for the reports of other workers."""
MAX_CLIENTS = 1000
"""Clients of one worker in one message, and in one answer."""

StateId = tuple[str, str]
"""A flow and a user."""
Clients = dict[str, PresentClient]
RemoteClients = dict[str, dict[str, tuple[PresentClient, ...]]]
"""The clients of another worker, by user and flow."""
ChangeHandler = Callable[[str, str], None]


class Presence:
    """The clients that follow states.

    Args:
        bus: Carries queries and reports between workers.
        has_subscribers: Returns true if anybody is subscribed to a topic through this worker.
    """

    def __init__(self, bus: EventBus, has_subscribers: Callable[[Topic], bool]) -> None:
        self._bus = bus
        self._has_subscribers = has_subscribers
        self._own: dict[StateId, Clients] = {}
        self._others: dict[str, RemoteClients] = {}
        self._known: dict[Topic, set[str]] = {}
        """The flows of a topic whose clients on other workers are known."""
        self._answers: dict[str, asyncio.Queue[str]] = {}
        self._handlers: list[ChangeHandler] = []
        self._unsent: dict[StateId | str, Callable[[], Event]] = {}
        self._wake = asyncio.Event()
        bus.subscribe(self._on_event)
        bus.on_gap(self._on_gap)
        bus.on_worker_lost(self._drop_worker)

    def on_change(self, handler: ChangeHandler) -> None:
        """Call ``handler`` with flow and user each time that the clients on a state change."""
        self._handlers.append(handler)

    def enter(self, flow_id: str, client: PresentClient) -> None:
        """Record that a client of this worker follows its user's state."""
        state = flow_id, client.user_id
        clients = self._own.setdefault(state, {})
        if client.client_id not in clients:
            clients[client.client_id] = client
            self._report(*state)

    def leave(self, flow_id: str, client: PresentClient) -> None:
        """Record that a client of this worker left the state."""
        state = flow_id, client.user_id
        clients = self._own.get(state, {})
        if clients.pop(client.client_id, None) is None:
            return
        if not clients:
            del self._own[state]
        self._report(*state)

    async def clients_on(self, flow_id: str, user_id: str | None) -> list[PresentClient]:
        """List the clients that follow a state on all workers, for a subscriber of its user or flow.

        Args:
            flow_id: The flow.
            user_id: The user, None for the states of all users in the flow.
        """
        topic = flow_topic(flow_id) if user_id is None else user_topic(user_id)
        known = self._known.setdefault(topic, set())
        if flow_id not in known:
            answered = await self._query(PresenceQuery(new_id(), flow_id, user_id))
            known.add(flow_id)
            if user_id is not None:
                # A worker that is not subscribed to this user has no such clients, so drop what it reported
                # earlier.
                for worker in self._others.keys() - answered:
                    self._replace(self._others[worker], flow_id, user_id, ())
        return self.known_on(flow_id, user_id)

    def known_on(self, flow_id: str, user_id: str | None) -> list[PresentClient]:
        """List the clients as ``clients_on`` does, without a query to other workers."""
        found = {c.client_id: c for c in self._own_on(flow_id, user_id)}
        for remote in self._others.values():
            users = remote.values() if user_id is None else [remote.get(user_id, {})]
            for flows in users:
                found |= {client.client_id: client for client in flows.get(flow_id, ())}
        return sorted(found.values(), key=lambda client: (client.since, client.client_id))[:MAX_CLIENTS]

    def forget_topic(self, topic: Topic) -> None:
        """Drop the clients of a topic without subscribers: reports of them are no longer received."""
        self._known.pop(topic, None)
        for remote in self._others.values():
            users = [topic.name] if topic.kind == "user" else list(remote)
            for user in users:
                flows = remote.get(user, {})
                stale = [flow for flow in flows if not self._receives_reports(flow, user)]
                for flow in stale:
                    del flows[flow]
                if not flows:
                    remote.pop(user, None)

    async def run(self) -> None:
        """Publish reports and queries until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            unsent, self._unsent = self._unsent, {}
            try:
                await self._bus.publish([make() for make in unsent.values()])
            except BusUnavailableError:
                log.info("presence not published, redis unavailable")
            except Exception as error:  # noqa: BLE001 - the next change must be published
                log.error("presence not published", **describe(error))

    def _own_on(self, flow_id: str, user_id: str | None) -> list[PresentClient]:
        if user_id is not None:
            return list(self._own.get((flow_id, user_id), {}).values())
        here = (clients for (flow, _), clients in self._own.items() if flow == flow_id)
        return [client for clients in here for client in clients.values()]

    def _report_of(self, flow_id: str, user_id: str | None, query_id: str = "") -> PresenceReport:
        clients = self._own_on(flow_id, user_id)
        is_partial = len(clients) > MAX_CLIENTS
        reported = tuple(clients[:MAX_CLIENTS])
        return PresenceReport(self._bus.worker, flow_id, user_id, reported, query_id, is_partial)

    def _receives_reports(self, flow_id: str, user_id: str) -> bool:
        return self._has_subscribers(user_topic(user_id)) or self._has_subscribers(flow_topic(flow_id))

    def _report(self, flow_id: str, user_id: str) -> None:
        """Report a change. The message is built when it is sent, so it has the latest clients."""
        self._unsent[flow_id, user_id] = partial(self._report_of, flow_id, user_id)
        self._wake.set()
        self._notify_change(flow_id, user_id)

    def _notify_change(self, flow_id: str, user_id: str) -> None:
        for handler in self._handlers:
            handler(flow_id, user_id)

    async def _query(self, query: PresenceQuery) -> set[str]:
        """Publish a query and wait until its receivers have answered, or time is up; return the workers."""
        answers = self._answers[query.id] = asyncio.Queue()
        answered: set[str] = set()
        try:
            async with asyncio.timeout(MAX_ANSWER_SECONDS):
                receivers = await self._bus.publish([query])
                while len(answered) < receivers:
                    answered.add(await answers.get())
        except (TimeoutError, BusUnavailableError):
            log.info("presence incomplete, not all workers answered", flow=query.flow_id)
        finally:
            del self._answers[query.id]
        return answered

    def _on_event(self, _: Topic, event: Event) -> None:
        if isinstance(event, PresenceQuery):
            self._unsent[event.id] = partial(self._report_of, event.flow_id, event.user_id, event.id)
            self._wake.set()
        elif isinstance(event, PresenceReport):
            if event.worker != self._bus.worker:
                self._receive(event)
            if event.query_id in self._answers:
                self._answers[event.query_id].put_nowait(event.worker)

    def _receive(self, report: PresenceReport) -> None:
        remote = self._others.setdefault(report.worker, {})
        if report.user_id is not None:
            self._replace(remote, report.flow_id, report.user_id, report.clients)
            return
        by_user: dict[str, tuple[PresentClient, ...]] = {}
        if not report.partial:
            by_user = dict.fromkeys(remote, ())
        for client in report.clients:
            by_user[client.user_id] = (*by_user.get(client.user_id, ()), client)
        for user, clients in by_user.items():
            self._replace(remote, report.flow_id, user, clients)

    def _replace(
        self, remote: RemoteClients, flow_id: str, user_id: str, clients: tuple[PresentClient, ...]
    ) -> None:
        before = remote.get(user_id, {}).get(flow_id, ())
        if before == clients:
            return
        flows = remote.setdefault(user_id, {})
        flows[flow_id] = clients
        if not clients:
            del flows[flow_id]
        if not flows:
            del remote[user_id]
        self._notify_change(flow_id, user_id)

    def _drop_worker(self, worker: str) -> None:
        for user, flows in self._others.pop(worker, {}).items():
            for flow in flows:
                self._notify_change(flow, user)

    def _on_gap(self, gap: Gap) -> None:
        """Repeat queries and reports that may have been lost."""
        for topic, flows in self._known.items():
            if gap.concerns(topic):
                user = topic.name if topic.kind == "user" else None
                for flow in flows:
                    query = PresenceQuery(new_id(), flow, user)
                    self._unsent[f"query {query.id}"] = partial(_return_event, query)
        if gap.topics is None:
            for state in self._own:
                self._report(*state)
        self._wake.set()


def _return_event(event: Event) -> Event:
    return event
