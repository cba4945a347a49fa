"""The audience of a worker: those who follow states through it, told of every change in its order; what
they may have missed is read from the store and told too."""

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
from app.contracts.state import FlowState, state_key
from app.services.live.catch_up import BEFORE_THE_FIRST, CatchUp
from config.log import describe

log = structlog.get_logger("audience")

USERS_IN_A_QUERY = 100
REPAIRS_UNDER_WAY = 16
REMEMBERED = 100_000
"""States of a watched flow whose last position is known here."""
RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0)

LiveEvent = StateChanged | Resync
DeliverEvent = Callable[[LiveEvent], None]


class _Listeners:
    """The followers of one topic, and the last position that they got, by state."""

    def __init__(self) -> None:
        self.tells: dict[object, DeliverEvent] = {}
        self.told: OrderedDict[str, tuple[str, int]] = OrderedDict()

    def tell(self, event: LiveEvent) -> None:
        """Tell everybody, unless it is no news: a change may come twice, as every worker that commits on
        top of it sends it again; but never after a later one."""
        if isinstance(event, StateChanged):
            key = state_key(event.flow_id, event.user_id)
            epoch, revision = self.told.pop(key, ("", -1))
            news = event.epoch > epoch or (event.epoch == epoch and event.revision > revision)
            self.told[key] = (event.epoch, event.revision) if news else (epoch, revision)
            if not news:
                return
            while len(self.told) > REMEMBERED:
                self.told.popitem(last=False)
        for tell in list(self.tells.values()):
            tell(event)


class TopicSubscription:
    """One who listens to a topic, until it leaves."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        """Listen no more."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()


class LocalSubscribers:
    """Tells who joined of changes. ``tell`` must not wait."""

    def __init__(self, bus: EventBus, states: StateStore, catch_up: CatchUp) -> None:
        self._bus = bus
        self._states = states
        self._catch_up = catch_up
        self._listeners: dict[Topic, _Listeners] = {}
        self._left: list[Callable[[Topic], None]] = []
        self._gaps: asyncio.Queue[Gap] = asyncio.Queue()
        self._under_way = asyncio.Semaphore(REPAIRS_UNDER_WAY)
        self.repaired = 0
        bus.subscribe(self._heard)
        bus.on_gap(self._gaps.put_nowait)

    async def follow_user(self, user_id: str, tell: DeliverEvent) -> TopicSubscription:
        """Tell of every change of a user's states from now on: what is read after this returns, and what
        is told, leave no change between them."""
        return await self._join(user_topic(user_id), tell)

    async def watch_flow(self, flow_id: str, tell: DeliverEvent) -> TopicSubscription:
        """Tell of every change of all users' states in a flow from now on."""
        return await self._join(flow_topic(flow_id), tell)

    def on_left(self, handler: Callable[[Topic], None]) -> None:
        """Call ``handler`` with each topic that nobody listens to any more."""
        self._left.append(handler)

    def listens(self, topic: Topic) -> bool:
        """True if anybody joined for a topic."""
        return topic in self._listeners

    def count(self, topic: Topic) -> int:
        """How many joined for a topic."""
        return len(self._listeners[topic].tells) if topic in self._listeners else 0

    async def _join(self, topic: Topic, tell: DeliverEvent) -> TopicSubscription:
        member = object()
        listeners = self._listeners.setdefault(topic, _Listeners())
        listeners.tells[member] = tell

        def leave() -> None:
            del listeners.tells[member]
            self._bus.unfollow(topic)
            if not listeners.tells:
                del self._listeners[topic]
                for handler in self._left:
                    handler(topic)

        try:
            await self._bus.follow(topic)
        except BaseException:
            leave()
            raise
        return TopicSubscription(leave)

    def _heard(self, topic: Topic, event: Event) -> None:
        listeners = self._listeners.get(topic)
        if listeners is not None and isinstance(event, StateChanged):
            listeners.tell(event)

    # What may have been missed

    async def run(self) -> None:
        """Make up for gaps until cancelled."""
        while True:
            gap = await self._gaps.get()
            while not self._gaps.empty():  # many may be told of at once: one way through the store is enough
                gap = gap.joined(self._gaps.get_nowait())
            try:
                await self._make_up(gap)
            except Exception as error:  # noqa: BLE001 - the next gap must be made up for
                log.error("gap not made up for", **describe(error))
                self._resync(topic for topic in self._listeners if gap.concerns(topic))

    async def _make_up(self, gap: Gap) -> None:
        concerned = [topic for topic in self._listeners if gap.concerns(topic)]
        self._resync(topic for topic in concerned if topic.kind == "flow")
        users = iter([topic.name for topic in concerned if topic.kind == "user"])
        before = self.repaired
        while some := list(islice(users, USERS_IN_A_QUERY)):
            changed = await self._changed_since(some, gap)
            await asyncio.gather(*(self._repair(state) for state in changed))
        if self.repaired > before:
            log.info("missed changes told", changes=self.repaired - before)

    async def _changed_since(self, users: list[str], gap: Gap) -> list[FlowState]:
        pauses = iter(RETRY_SECONDS)
        while True:
            try:
                return await self._states.changed_since(users, gap.since)
            except StoreUnavailableError:  # nothing is committed meanwhile either
                await asyncio.sleep(next(pauses, RETRY_SECONDS[-1]))

    async def _repair(self, state: FlowState) -> None:
        """Tell what was missed of one state: each change after the last one told, a later epoch from its
        first revision, or where that is not known or cannot be proven, the newest one."""
        topic = user_topic(state.user_id)
        listeners = self._listeners.get(topic)
        if listeners is None:
            return
        epoch, revision = listeners.told.get(state.key, ("", -1))
        if epoch == state.epoch and revision >= state.revision:
            return
        starts = {state.revision - 1}
        if epoch:
            starts.add(revision if epoch == state.epoch else BEFORE_THE_FIRST)
        async with self._under_way:
            try:
                for start in sorted(starts):
                    found = await self._catch_up.since(
                        state.user_id,
                        state.flow,
                        HeldPosition(state.epoch, start),
                        trusted_caller(state.user_id),
                    )
                    if found is not None and found.complete:
                        for event in found.events:
                            self.repaired += 1
                            listeners.tell(event)
                        return
            except FlowError as error:
                log.warning("state not read again", state=state.key, code=error.code)
        self._resync([topic])

    def _resync(self, topics: Iterable[Topic]) -> None:
        for topic in list(topics):
            if topic in self._listeners:
                self._listeners[topic].tell(Resync("this worker may have missed events"))
