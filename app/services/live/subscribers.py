"""The subscribers of a worker: every change is delivered to them in order, and gaps are repaired.

Changes that they may have missed are read from the store and delivered, too.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import islice

import structlog

from app.contracts.callers import trusted_caller
from app.contracts.errors import FlowError, StoreUnavailableError
from app.contracts.events import Event, Gap, Resync, StateChanged, Topic, flow_topic, user_topic
from app.contracts.ports.bus import EventBus
from app.contracts.ports.states import StateStore
from app.contracts.positions import HeldPosition
from app.contracts.state import FlowState
from app.services.live.catch_up import BEFORE_THE_FIRST, CatchUp
from config.log import describe

log = structlog.get_logger("subscribers")

MAX_USERS_PER_QUERY = 100
MAX_CONCURRENT_REPAIRS = 16
MAX_POSITIONS = 100_000
"""States of a topic whose last delivered position is remembered."""
RETRY_DELAYS_SECONDS = (0.2, 0.5, 1.0, 2.0)

LiveEvent = StateChanged | Resync
DeliverEvent = Callable[[LiveEvent], None]


class _TopicSubscribers:
    """The subscribers of one topic, and the last delivered position, by state."""

    def __init__(self) -> None:
        self.callbacks: dict[object, DeliverEvent] = {}
        self.delivered: OrderedDict[str, tuple[str, int]] = OrderedDict()

    def deliver(self, event: LiveEvent) -> None:
        """Deliver an event to all subscribers, unless it is a duplicate.

        A change may arrive twice, as every worker that commits on top of it publishes it again, but never
        after a later one.
        """
        if isinstance(event, StateChanged):
            key = event.state_id.key
            epoch, revision = self.delivered.pop(key, ("", -1))
            is_new = event.epoch > epoch or (event.epoch == epoch and event.revision > revision)
            self.delivered[key] = (event.epoch, event.revision) if is_new else (epoch, revision)
            if not is_new:
                return
            while len(self.delivered) > MAX_POSITIONS:
                self.delivered.popitem(last=False)
        for callback in list(self.callbacks.values()):
            callback(event)


class TopicSubscription:
    """A subscription to a topic."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        """End the subscription. Further calls do nothing."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()


class LocalSubscribers:
    """Delivers changes to the subscribers of this worker. Their callbacks must not block."""

    def __init__(self, bus: EventBus, states: StateStore, catch_up: CatchUp) -> None:
        self._bus = bus
        self._states = states
        self._catch_up = catch_up
        self._topics: dict[Topic, _TopicSubscribers] = {}
        self._left_handlers: list[Callable[[Topic], None]] = []
        self._gaps: asyncio.Queue[Gap] = asyncio.Queue()
        self._repairs = asyncio.Semaphore(MAX_CONCURRENT_REPAIRS)
        self.repaired = 0
        bus.subscribe(self._on_event)
        bus.on_gap(self._gaps.put_nowait)

    async def follow_user(self, user_id: str, deliver: DeliverEvent) -> TopicSubscription:
        """Deliver every change of a user's states from now on.

        No change is lost between the events and a state that is read after this returns.
        """
        return await self._join(user_topic(user_id), deliver)

    async def watch_flow(self, flow_id: str, deliver: DeliverEvent) -> TopicSubscription:
        """Deliver every change of all users' states in a flow from now on."""
        return await self._join(flow_topic(flow_id), deliver)

    def on_left(self, handler: Callable[[Topic], None]) -> None:
        """Call ``handler`` with each topic that has lost its last subscriber."""
        self._left_handlers.append(handler)

    def has_subscribers(self, topic: Topic) -> bool:
        """Return true if a topic has subscribers."""
        return topic in self._topics

    def count(self, topic: Topic) -> int:
        """Return the number of subscribers of a topic."""
        return len(self._topics[topic].callbacks) if topic in self._topics else 0

    async def _join(self, topic: Topic, deliver: DeliverEvent) -> TopicSubscription:
        key = object()
        subscribers = self._topics.setdefault(topic, _TopicSubscribers())
        subscribers.callbacks[key] = deliver

        def leave() -> None:
            del subscribers.callbacks[key]
            self._bus.unfollow(topic)
            if not subscribers.callbacks:
                del self._topics[topic]
                for handler in self._left_handlers:
                    handler(topic)

        try:
            await self._bus.follow(topic)
        except BaseException:
            leave()
            raise
        return TopicSubscription(leave)

    def _on_event(self, topic: Topic, event: Event) -> None:
        subscribers = self._topics.get(topic)
        if subscribers is not None and isinstance(event, StateChanged):
            subscribers.deliver(event)

    # Repair of gaps

    async def run(self) -> None:
        """Repair gaps until cancelled."""
        while True:
            gap = await self._gaps.get()
            while not self._gaps.empty():  # one pass through the store is enough for many
                gap = gap.joined(self._gaps.get_nowait())
            try:
                await self._repair_gap(gap)
            except Exception as error:  # noqa: BLE001 - the next gap must be repaired
                log.error("gap repair failed", **describe(error))
                self._resync(topic for topic in self._topics if gap.concerns(topic))

    async def _repair_gap(self, gap: Gap) -> None:
        concerned = [topic for topic in self._topics if gap.concerns(topic)]
        self._resync(topic for topic in concerned if topic.kind == "flow")
        users = iter([topic.name for topic in concerned if topic.kind == "user"])
        before = self.repaired
        while some := list(islice(users, MAX_USERS_PER_QUERY)):
            changed = await self._changed_since(some, gap)
            await asyncio.gather(*(self._repair_state(state) for state in changed))
        if self.repaired > before:
            log.info("missed changes delivered", changes=self.repaired - before)

    async def _changed_since(self, users: list[str], gap: Gap) -> list[FlowState]:
        pauses = iter(RETRY_DELAYS_SECONDS)
        while True:
            try:
                return await self._states.changed_since(users, gap.since)
            except StoreUnavailableError:  # nothing is committed meanwhile either
                await asyncio.sleep(next(pauses, RETRY_DELAYS_SECONDS[-1]))

    async def _repair_state(self, state: FlowState) -> None:
        """Deliver the changes of one state after the last delivered one, of a later epoch from its first.

        If the last delivered one is unknown, or the changes cannot be proven, subscribers reload the state.
        """
        topic = user_topic(state.user_id)
        subscribers = self._topics.get(topic)
        if subscribers is None:
            return
        epoch, revision = subscribers.delivered.get(state.key, ("", -1))
        if epoch == state.epoch and revision >= state.revision:
            return
        starts = {state.revision - 1}
        if epoch:
            starts.add(revision if epoch == state.epoch else BEFORE_THE_FIRST)
        async with self._repairs:
            missed = await self._missed_changes(state, sorted(starts))
        if missed is None:
            self._resync([topic])
            return
        for event in missed:
            self.repaired += 1
            subscribers.deliver(event)

    async def _missed_changes(
        self, state: FlowState, starts: Iterable[int]
    ) -> tuple[StateChanged, ...] | None:
        """Return the changes after the first revision of ``starts`` from which they are complete, if any."""
        caller = trusted_caller(state.user_id)
        try:
            for start in starts:
                held = HeldPosition(state.epoch, start)
                found = await self._catch_up.since(state.id, held, caller)
                if found is not None and found.complete:
                    return found.events
        except FlowError as error:
            log.warning("missed changes of a state not read", state=state.key, code=error.code)
        return None

    def _resync(self, topics: Iterable[Topic]) -> None:
        for topic in list(topics):
            if topic in self._topics:
                self._topics[topic].deliver(Resync("this worker may have missed events"))
