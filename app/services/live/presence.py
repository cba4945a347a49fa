"""Presence: the clients that follow a state now, over all workers.

Every worker knows its own clients. Workers that are subscribed to the same user or flow report theirs to each
other, and drop those of a worker that is lost.
"""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog
from msgspec import structs

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
from app.contracts.state import StateId
from app.kit.ids import new_id
from config.log import describe

log = structlog.get_logger("presence")

MAX_ANSWER_SECONDS = 1.0
"""How long a query waits for the reports of other workers."""
MAX_CLIENTS = 1000
"""Clients of one worker in one message, and in one answer."""

StatesOfOwner = tuple[str, str]
"""A flow and the owner of one state or many in it."""
Clients = dict[tuple[str, str], PresentClient]
"""Clients by connection and entity."""
RemoteClients = dict[str, dict[str, tuple[PresentClient, ...]]]
"""The clients of another worker, by owner and flow."""
ChangeHandler = Callable[[StateId], None]


class Presence:
    """The clients that follow states.

    Args:
        bus: Carries queries and reports between workers.
        has_subscribers: Returns true if anybody is subscribed to a topic through this worker.
    """

    def __init__(self, bus: EventBus, has_subscribers: Callable[[Topic], bool]) -> None:
        self._bus = bus
        self._has_subscribers = has_subscribers
        self._own: dict[StatesOfOwner, Clients] = {}
        self._others: dict[str, RemoteClients] = {}
        self._known: dict[Topic, set[str]] = {}
        """The flows of a topic whose clients on other workers are known."""
        self._answers: dict[str, asyncio.Queue[str]] = {}
        self._handlers: list[ChangeHandler] = []
        self._unsent: dict[StatesOfOwner | str, Callable[[], Event]] = {}
        self._wake = asyncio.Event()
        bus.subscribe(self._on_event)
        bus.on_gap(self._on_gap)
        bus.on_worker_lost(self._drop_worker)

    def on_change(self, handler: ChangeHandler) -> None:
        """Call ``handler`` with the state each time that the clients on a state change."""
        self._handlers.append(handler)

    def enter(self, state_id: StateId, client: PresentClient) -> None:
        """Record that a client of this worker follows a state."""
        client = _on_state(client, state_id)
        clients = self._own.setdefault((state_id.flow_id, state_id.user_id), {})
        place = client.client_id, client.entity_id
        if place not in clients:
            clients[place] = client
            self._report(state_id)

    def leave(self, state_id: StateId, client: PresentClient) -> None:
        """Record that a client of this worker left a state."""
        states = state_id.flow_id, state_id.user_id
        clients = self._own.get(states, {})
        if clients.pop((client.client_id, state_id.instance_id or ""), None) is None:
            return
        if not clients:
            del self._own[states]
        self._report(state_id)

    async def clients_on(self, where: StateId | str) -> list[PresentClient]:
        """List the clients that follow states on all workers, for a subscriber of the owner or the flow.

        Args:
            where: The state, or a flow for all of its states.
        """
        flow_id, user_id = _states_of(where)
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
        return self.known_on(where)

    def known_on(self, where: StateId | str) -> list[PresentClient]:
        """List the clients as ``clients_on`` does, without a query to other workers."""
        flow_id, user_id = _states_of(where)
        known = list(self._own_on(flow_id, user_id))
        for remote in self._others.values():
            users = remote.values() if user_id is None else [remote.get(user_id, {})]
            for flows in users:
                known += flows.get(flow_id, ())
        found = {
            (client.client_id, client.owner, client.entity_id): client
            for client in known
            if isinstance(where, str) or client.of_state(flow_id) == where
        }
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

    def _report(self, state_id: StateId) -> None:
        self._report_later(state_id.flow_id, state_id.user_id)
        self._notify_change(state_id)

    def _report_later(self, flow_id: str, user_id: str) -> None:
        """Report a change. The message is built when it is sent, so it has the latest clients."""
        self._unsent[flow_id, user_id] = partial(self._report_of, flow_id, user_id)
        self._wake.set()

    def _notify_change(self, state_id: StateId) -> None:
        for handler in self._handlers:
            handler(state_id)

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
            by_user[client.owner] = (*by_user.get(client.owner, ()), client)
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
        for state_id in {client.of_state(flow_id) for client in set(before) ^ set(clients)}:
            self._notify_change(state_id)

    def _drop_worker(self, worker: str) -> None:
        for flows in self._others.pop(worker, {}).values():
            for flow_id, clients in flows.items():
                for state_id in {client.of_state(flow_id) for client in clients}:
                    self._notify_change(state_id)

    def _on_gap(self, gap: Gap) -> None:
        """Repeat queries and reports that may have been lost."""
        for topic, flows in self._known.items():
            if gap.concerns(topic):
                user = topic.name if topic.kind == "user" else None
                for flow in flows:
                    query = PresenceQuery(new_id(), flow, user)
                    self._unsent[f"query {query.id}"] = partial(_return_event, query)
        if gap.topics is None:
            for flow_id, user_id in self._own:
                self._report_later(flow_id, user_id)
        self._wake.set()


def _states_of(where: StateId | str) -> tuple[str, str | None]:
    return (where, None) if isinstance(where, str) else (where.flow_id, where.user_id)


def _on_state(client: PresentClient, state_id: StateId) -> PresentClient:
    owner = "" if client.user_id == state_id.user_id else state_id.user_id
    return structs.replace(client, owner_id=owner, entity_id=state_id.instance_id or "")


def _return_event(event: Event) -> Event:
    return event
