"""Presence: which clients are on a state now, over all workers. Every worker knows its own; those that
are interested in the same user tell each other, and forget a worker that is gone."""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

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
from app.contracts.ports.bus import BusUnavailableError, EventBus
from app.kit.ids import new_id
from config.log import describe

log = structlog.get_logger("presence")

ANSWER_SECONDS = 1.0
MOST_CLIENTS = 1000
"""Of one worker in one message, and in one answer."""

Place = tuple[str, str]
"""A state: flow and user."""
Clients = dict[str, PresentClient]
Elsewhere = dict[str, dict[str, tuple[PresentClient, ...]]]
"""The clients of another worker, by user and flow."""
Changed = Callable[[str, str], None]


class Presence:
    """The clients on states. ``interested`` says whether anybody here listens to a topic."""

    def __init__(self, bus: EventBus, interested: Callable[[Topic], bool]) -> None:
        self._bus = bus
        self._interested = interested
        self._own: dict[Place, Clients] = {}
        self._others: dict[str, Elsewhere] = {}
        self._known: dict[Topic, set[str]] = {}
        self._answers: dict[str, asyncio.Queue[str]] = {}
        self._changed: list[Changed] = []
        self._unsaid: dict[Place | str, Callable[[], Event]] = {}
        self._wake = asyncio.Event()
        bus.subscribe(self._heard)
        bus.on_gap(self._missed)
        bus.on_worker_lost(self._forget)

    def on_change(self, handler: Changed) -> None:
        """Call ``handler`` with flow and user each time that the clients on a state change."""
        self._changed.append(handler)

    def enter(self, flow_id: str, client: PresentClient) -> None:
        """A client of this worker is on its user's state."""
        place = flow_id, client.user_id
        clients = self._own.setdefault(place, {})
        if client.client_id not in clients:
            clients[client.client_id] = client
            self._say(*place)

    def leave(self, flow_id: str, client: PresentClient) -> None:
        """It is no more."""
        place = flow_id, client.user_id
        clients = self._own.get(place, {})
        if clients.pop(client.client_id, None) is None:
            return
        if not clients:
            del self._own[place]
        self._say(*place)

    async def clients_on(self, flow_id: str, user_id: str | None) -> list[PresentClient]:
        """The clients on a state, or on any state of a flow, on all workers; for somebody who listens to
        the topic of the user or of the flow."""
        topic = flow_topic(flow_id) if user_id is None else user_topic(user_id)
        known = self._known.setdefault(topic, set())
        if flow_id not in known:
            answered = await self._ask(PresenceQuery(new_id(), flow_id, user_id))
            known.add(flow_id)
            if user_id is not None:
                # Who does not hear the question has no client of the user, whatever it said when it had.
                for worker in self._others.keys() - answered:
                    self._put(self._others[worker], flow_id, user_id, ())
        return self.known_on(flow_id, user_id)

    def known_on(self, flow_id: str, user_id: str | None) -> list[PresentClient]:
        """As ``clients_on``, from what this worker knows."""
        found = {c.client_id: c for c in self._own_on(flow_id, user_id)}
        for elsewhere in self._others.values():
            users = elsewhere.values() if user_id is None else [elsewhere.get(user_id, {})]
            for flows in users:
                found |= {client.client_id: client for client in flows.get(flow_id, ())}
        return sorted(found.values(), key=lambda client: (client.since, client.client_id))[:MOST_CLIENTS]

    def forget_topic(self, topic: Topic) -> None:
        """Nobody here listens to a topic any more, so that what others say of it is not heard."""
        self._known.pop(topic, None)
        for elsewhere in self._others.values():
            users = [topic.name] if topic.kind == "user" else list(elsewhere)
            for user in users:
                flows = elsewhere.get(user, {})
                gone = [flow for flow in flows if not self._hears_of(flow, user)]
                for flow in gone:
                    del flows[flow]
                if not flows:
                    elsewhere.pop(user, None)

    async def run(self) -> None:
        """Tell the others of changes until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            unsaid, self._unsaid = self._unsaid, {}
            try:
                await self._bus.publish([said() for said in unsaid.values()])
            except BusUnavailableError:
                log.info("presence not told, Redis is away")
            except Exception as error:  # noqa: BLE001 - the next change must be told
                log.error("presence not told", **describe(error))

    def _own_on(self, flow_id: str, user_id: str | None) -> list[PresentClient]:
        if user_id is not None:
            return list(self._own.get((flow_id, user_id), {}).values())
        here = (clients for (flow, _), clients in self._own.items() if flow == flow_id)
        return [client for clients in here for client in clients.values()]

    def _told(self, flow_id: str, user_id: str | None, query_id: str = "") -> PresenceReport:
        clients = self._own_on(flow_id, user_id)
        cut = len(clients) > MOST_CLIENTS
        some = tuple(clients[:MOST_CLIENTS])
        return PresenceReport(self._bus.worker, flow_id, user_id, some, query_id, cut)

    def _hears_of(self, flow_id: str, user_id: str) -> bool:
        return self._interested(user_topic(user_id)) or self._interested(flow_topic(flow_id))

    def _say(self, flow_id: str, user_id: str) -> None:
        """The clients on a state changed. What is told of it is what is so when it is told."""
        self._unsaid[flow_id, user_id] = partial(self._told, flow_id, user_id)
        self._wake.set()
        self._tell_change(flow_id, user_id)

    def _tell_change(self, flow_id: str, user_id: str) -> None:
        for handler in self._changed:
            handler(flow_id, user_id)

    async def _ask(self, question: PresenceQuery) -> set[str]:
        """Wait until everyone who hears the question has answered, but not for long; who did."""
        answers = self._answers[question.id] = asyncio.Queue()
        answered: set[str] = set()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                hearing = await self._bus.publish([question])
                while len(answered) < hearing:
                    answered.add(await answers.get())
        except (TimeoutError, BusUnavailableError):
            log.info("not all workers said who is present", flow=question.flow_id)
        finally:
            del self._answers[question.id]
        return answered

    def _heard(self, _: Topic, event: Event) -> None:
        if isinstance(event, PresenceQuery):
            self._unsaid[event.id] = partial(self._told, event.flow_id, event.user_id, event.id)
            self._wake.set()
        elif isinstance(event, PresenceReport):
            if event.worker != self._bus.worker:
                self._take(event)
            if event.query_id in self._answers:
                self._answers[event.query_id].put_nowait(event.worker)

    def _take(self, told: PresenceReport) -> None:
        elsewhere = self._others.setdefault(told.worker, {})
        if told.user_id is not None:
            self._put(elsewhere, told.flow_id, told.user_id, told.clients)
            return
        by_user: dict[str, tuple[PresentClient, ...]] = {}
        if not told.partial:
            by_user = dict.fromkeys(elsewhere, ())
        for client in told.clients:
            by_user[client.user_id] = (*by_user.get(client.user_id, ()), client)
        for user, clients in by_user.items():
            self._put(elsewhere, told.flow_id, user, clients)

    def _put(
        self, elsewhere: Elsewhere, flow_id: str, user_id: str, clients: tuple[PresentClient, ...]
    ) -> None:
        before = elsewhere.get(user_id, {}).get(flow_id, ())
        if before == clients:
            return
        flows = elsewhere.setdefault(user_id, {})
        flows[flow_id] = clients
        if not clients:
            del flows[flow_id]
        if not flows:
            del elsewhere[user_id]
        self._tell_change(flow_id, user_id)

    def _forget(self, worker: str) -> None:
        for user, flows in self._others.pop(worker, {}).items():
            for flow in flows:
                self._tell_change(flow, user)

    def _missed(self, gap: Gap) -> None:
        """Others may have missed what this worker said, and it what they said."""
        for topic, flows in self._known.items():
            if gap.concerns(topic):
                user = topic.name if topic.kind == "user" else None
                for flow in flows:
                    question = PresenceQuery(new_id(), flow, user)
                    self._unsaid[f"ask {question.id}"] = partial(_itself, question)
        if gap.topics is None:
            for place in self._own:
                self._say(*place)
        self._wake.set()


def _itself(event: Event) -> Event:
    return event
