"""The sink that notes which changes concern which integrations."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from msgspec import UNSET, structs

from app.contracts.definition import FlowDefinition
from app.contracts.deliveries import LaneId, LanePosition
from app.contracts.errors import DefinitionCorruptionError, StoreUnavailableError
from app.contracts.integration import Integration
from app.contracts.record import HistoryRecord
from app.contracts.state import StateId
from app.services.definitions.catalog import DefinitionCatalog
from app.services.integrations.outgoing import IntegrationSink
from tests.support import samples
from tests.support.fake_deliveries import FakeDeliveryLanes
from tests.support.fakes import FakeClock, FakeDefinitionStore
from tests.support.integrations import change, checkout, integration

STATE = StateId("checkout", "ada")
T0 = samples.T0


class Registered:
    """Registrations that were read already."""

    def __init__(self, *integrations: Integration) -> None:
        self.integrations = integrations

    async def current(self) -> tuple[Integration, ...]:
        return self.integrations


class Unreadable(FakeDefinitionStore):
    """A store whose definitions cannot be read, for a reason."""

    def __init__(self, reason: Exception) -> None:
        super().__init__()
        self.reason = reason

    async def get(self, flow_id: str, version: int) -> FlowDefinition | None:
        raise self.reason


class Sink:
    """A sink over fakes."""

    def __init__(self, *integrations: Integration, store: FakeDefinitionStore | None = None) -> None:
        self.lanes = FakeDeliveryLanes()
        self.store = store or FakeDefinitionStore()
        catalog = DefinitionCatalog(self.store, timedelta(minutes=5))
        self.sink = IntegrationSink(Registered(*integrations), self.lanes, catalog, FakeClock(T0))

    async def deliver(self, *batch: HistoryRecord) -> set[str]:
        return await self.sink.deliver(batch)

    def waits_since(self, alias: str = "payment") -> object:
        waiting = self.lanes.waiting.get(LaneId(alias, STATE).key)
        return None if waiting is None else waiting.since

    @property
    def aliases(self) -> set[str]:
        return {lane.id.alias for lane in self.lanes.lanes.values()}


async def sink(*integrations: Integration) -> Sink:
    made = Sink(*integrations)
    definition = FlowDefinition(
        flow=checkout(), version=1, published_at=T0, published_by="tests", source="python"
    )
    assert await made.store.publish(definition)
    return made


def later(record: HistoryRecord, revision: int) -> HistoryRecord:
    """The record as that of a later revision, as many seconds later."""
    assert record.after is not UNSET
    after = structs.replace(record.after, revision=revision, updated_at=T0 + timedelta(seconds=revision))
    made = samples.record(after, kind=record.kind, from_step=record.from_step)
    return structs.replace(made, to_step=record.to_step)


ENTER = later(change("transitioned", "cart", "pay"), 1)
STAY = later(change("voted", "pay", "pay"), 2)
LEAVE = later(change("transitioned", "pay", "ship"), 3)
BACK = later(change("undone", "ship", "pay"), 4)
PAUSE = later(change("paused", "pay", "pay", status="paused"), 2)
RESUME = later(change("resumed", "pay", "pay"), 3)


def at(revision: int) -> object:
    return T0 + timedelta(seconds=revision)


async def test_without_registrations_no_command_is_sent() -> None:
    made = Sink(store=Unreadable(StoreUnavailableError("no read is expected")))
    assert await made.deliver(ENTER) == {ENTER.id}
    assert made.lanes.marks == 0


async def test_a_batch_is_one_command() -> None:
    made = await sink(integration(), integration("user"), integration("stranger"))
    assert await made.deliver(ENTER, STAY, LEAVE) == {ENTER.id, STAY.id, LEAVE.id}
    assert made.lanes.marks == 1
    assert made.aliases == {"payment", "user"}
    lane = made.lanes.lanes[LaneId("payment", STATE).key]
    assert (lane.newest, lane.since, lane.cursor) == (LanePosition("e1", 3), T0, None)
    assert lane.due_at == T0


async def test_changes_that_concern_nobody_mark_nothing() -> None:
    made = await sink(integration("stranger"))
    refused = structs.replace(ENTER, after=UNSET, kind="refused", success=False)
    assert await made.deliver(ENTER, refused) == {ENTER.id}
    assert made.lanes.marks == 0


async def test_a_disabled_integration_has_a_backlog() -> None:
    made = await sink(integration(enabled=False))
    await made.deliver(ENTER)
    assert made.aliases == {"payment"}


@pytest.mark.parametrize(
    ("batches", "since"),
    [
        ([[ENTER]], at(1)),
        ([[ENTER], [ENTER]], at(1)),
        ([[ENTER], [STAY]], at(1)),
        ([[ENTER, STAY]], at(1)),
        ([[STAY]], at(2)),
        ([[STAY], [ENTER]], at(2)),
        ([[ENTER], [LEAVE]], None),
        ([[ENTER, STAY, LEAVE]], None),
        ([[LEAVE], [STAY]], None),
        ([[LEAVE, STAY]], None),
        ([[ENTER], [LEAVE], [BACK]], at(4)),
        ([[ENTER], [LEAVE, BACK]], at(4)),
        ([[ENTER], [PAUSE]], None),
        ([[ENTER], [PAUSE], [RESUME]], at(3)),
        ([[ENTER], [PAUSE, RESUME]], at(3)),
        ([[ENTER, PAUSE, RESUME]], at(3)),
    ],
)
async def test_since_when_a_state_waits(batches: Sequence[Sequence[HistoryRecord]], since: object) -> None:
    made = await sink(integration())
    for batch in batches:
        await made.deliver(*batch)
    assert made.waits_since() == since


async def test_the_list_of_waiting_states_does_not_depend_on_the_events_that_it_receives() -> None:
    made = await sink(integration(events=("flow.erased",)), integration("user", flows=("other",)))
    await made.deliver(later(change("started", "", "cart"), 0))
    assert made.waits_since("user") == at(0)
    await made.deliver(ENTER)
    assert made.waits_since("user") is None
    assert made.waits_since() == at(1)


async def test_a_service_that_lists_a_flow_with_its_own_step_has_one_lane() -> None:
    made = await sink(integration(flows=("checkout", "other")), integration("audit", flows=("checkout",)))
    received: list[tuple[str, list[HistoryRecord]]] = []
    made.sink.on_marked(lambda alias, records: received.append((alias, list(records))))
    await made.deliver(ENTER)
    assert sorted(received, key=str) == [("audit", [ENTER]), ("payment", [ENTER])]


async def test_an_older_change_after_a_newer_one_is_no_step_back() -> None:
    made = await sink(integration())
    await made.deliver(LEAVE, ENTER)
    assert made.waits_since() is None
    assert made.lanes.lanes[LaneId("payment", STATE).key].newest == LanePosition("e1", 3)


async def test_the_step_of_the_target_waits_for_it() -> None:
    made = await sink(integration("parcels"), integration())
    await made.deliver(LEAVE)
    assert made.waits_since("parcels") == at(3)
    assert made.waits_since() is None


async def test_callbacks_receive_the_changes_of_each_integration() -> None:
    made = await sink(integration("user", events=("flow.reset",)), integration())
    received: dict[str, list[HistoryRecord]] = {}
    made.sink.on_marked(lambda alias, records: received.update({alias: list(records)}))
    other = later(change("transitioned", "ship", "ship", user_id="bob"), 7)
    await made.deliver(ENTER, other, STAY)
    assert received == {"user": [ENTER], "payment": [ENTER, other, STAY]}


async def test_changes_before_the_registration_are_not_delivered() -> None:
    fresh = T0 + timedelta(seconds=2)
    made = await sink(
        *(structs.replace(each, registered_at=fresh) for each in (integration(), integration("user")))
    )
    received: dict[str, list[HistoryRecord]] = {}
    made.sink.on_marked(lambda alias, records: received.update({alias: list(records)}))
    await made.deliver(ENTER)
    assert (received, made.waits_since()) == ({}, at(1)), "it waits, which is listed"
    await made.deliver(STAY)
    assert received == {"payment": [STAY], "user": [STAY]}


async def test_callbacks_come_after_the_marks_only() -> None:
    made = await sink(integration("stranger"))
    made.sink.on_marked(lambda alias, records: pytest.fail("nothing was marked"))
    await made.deliver(ENTER)


@pytest.mark.expected_logs("definition missing, owners of steps unknown")
async def test_a_missing_definition_does_not_stop_the_relay() -> None:
    made = Sink(integration(), integration("audit", flows=("checkout",)))
    assert await made.deliver(ENTER) == {ENTER.id}
    assert made.aliases == {"audit"}
    assert made.waits_since() is None


@pytest.mark.expected_logs("definition unreadable, owners of steps unknown")
async def test_an_unreadable_definition_does_not_stop_the_relay() -> None:
    store = Unreadable(DefinitionCorruptionError("checkout", 1, "ValidationError"))
    made = Sink(integration("audit", flows=("checkout",)), store=store)
    assert await made.deliver(ENTER) == {ENTER.id}
    assert made.aliases == {"audit"}


async def test_the_relay_tries_again_while_the_store_is_unavailable() -> None:
    made = Sink(integration(), store=Unreadable(StoreUnavailableError("away")))
    with pytest.raises(StoreUnavailableError):
        await made.deliver(ENTER)
    assert made.lanes.marks == 0
