"""The relay: one record that cannot be delivered stops no other, and operators learn of it."""

from collections.abc import Sequence

import pytest
from msgspec import UNSET

from app.contracts.commands import StartCommand, trusted_origin
from app.contracts.events import Event, StateChanged
from app.contracts.record import HistoryRecord
from app.services.delivery.relay import Relay
from app.services.delivery.undeliverable import MAX_FAILURES, UndeliverableRecords
from app.services.jobs import outbox_sweep
from tests.support.rig import Rig, rig

OPERATOR = trusted_origin("operator", client="command-line")


def refuse_records_of(r: Rig, user: str) -> list[int]:
    """Make the history refuse the records of a user; the sizes of the batches that it was given."""
    append, batches = r.history.append, []

    async def refusing(records: Sequence[HistoryRecord]) -> set[str]:
        batches.append(len(records))
        if any(record.user_id == user for record in records):
            raise ValueError("too large")
        return await append(records)

    r.history.append = refusing  # type: ignore[method-assign]
    return batches


async def sweep(r: Rig) -> None:
    r.clock.advance(seconds=5)
    await r.service.background.sweep.run()
    await r.service.background.relay.drain(5)


@pytest.mark.expected_logs("delivery failed", "record set aside, delivery failed repeatedly")
async def test_a_record_that_fails_three_times_is_set_aside_and_reported() -> None:
    r = await rig()
    batches = refuse_records_of(r, "eve")
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("eve", "loop")
        await flows.start_flow("ada", "loop")
        await service.background.relay.drain(5)
        assert [record.user_id for record in r.history.records.values()] == ["ada"], "it stops no other"
        for _ in range(MAX_FAILURES - 1):
            assert r.reports.findings == {}
            await sweep(r)
        ((key, (_, reason)),) = r.reports.findings.items()
        assert key == "loop:eve"
        assert "ValueError" in reason
        tried = len(batches)
        for _ in range(3):
            await sweep(r)
        assert len(batches) == tried, "it is tried no more"
        assert await r.kinds("eve") == ["started"], "who reads the history sees it"
        await service.background.check.run()
        assert "loop:eve" in await service.background.check.list_reasons(10)
        await flows.execute_transition("eve", "loop", "again")


@pytest.mark.expected_logs("delivery failed", "record set aside, delivery failed repeatedly")
async def test_records_set_aside_do_not_stand_before_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_sweep, "MAX_STATES", 2)
    r = await rig()
    refuse_records_of(r, "eve")
    append = r.history.append

    async def refusing(records: Sequence[HistoryRecord]) -> set[str]:
        if any(record.user_id == "mallory" for record in records):
            raise ValueError("too large")
        return await append(records)

    r.history.append = refusing  # type: ignore[method-assign]
    async with r.service as service:
        flows = service.as_trusted()
        for user in ("eve", "mallory"):
            await flows.start_flow(user, "loop")
        await service.background.relay.drain(5)
        for _ in range(MAX_FAILURES - 1):
            await sweep(r)
        assert sorted(service.background.relay.states_set_aside) == ["loop:eve", "loop:mallory"]
        await r.make().as_trusted().start_flow("ada", "loop")  # by a worker that delivers nothing
        await sweep(r)
        assert [record.user_id for record in r.history.records.values()] == ["ada"]


@pytest.mark.expected_logs("delivery failed", "record set aside, delivery failed repeatedly")
async def test_a_record_set_aside_stays_reported_after_a_restart_until_it_is_delivered() -> None:
    r = await rig()
    append = r.history.append
    refuse_records_of(r, "eve")
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("eve", "loop")
        await service.background.relay.drain(5)
        for _ in range(MAX_FAILURES - 1):
            await sweep(r)
    other = r.make()
    await other.background.check.run()
    assert "loop:eve" in await other.background.check.list_reasons(10)
    r.service = r.make()
    r.history.append = append  # type: ignore[method-assign]
    async with r.service as service:
        await sweep(r)
        await service.background.check.run()
        assert await service.background.check.list_reasons(10) == {}


@pytest.mark.expected_logs("delivery failed", "record set aside, delivery failed repeatedly")
async def test_an_erasure_is_not_stopped_by_a_record_that_cannot_be_retained() -> None:
    r = await rig()
    refuse_records_of(r, "eve")
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("eve", "loop", StartCommand(payload={"secret": 1}))
        await service.personal_data.erase("eve", OPERATOR)
        assert all(record.payload is UNSET for record in r.states.stored["loop:eve"].pending)


@pytest.mark.expected_logs("events not published")
async def test_an_event_that_cannot_be_published_stops_no_other() -> None:
    r = await rig()
    publish = r.bus.publish

    async def refusing(events: Sequence[Event]) -> int:
        if any(isinstance(event, StateChanged) and event.user_id == "eve" for event in events):
            raise ValueError("too large")
        return await publish(events)

    r.bus.publish = refusing  # type: ignore[method-assign]
    async with r.service as service:
        flows = service.as_trusted()
        for user in ("ada", "eve", "bob"):
            await flows.start_flow(user, "loop")
        await service.background.relay.drain(5)
        assert [event.user_id for event in r.published] == ["ada", "bob"]
    assert {record.user_id for record in r.history.records.values()} == {"ada", "eve", "bob"}


@pytest.mark.expected_logs("events not published")
async def test_a_record_of_which_no_event_can_be_made_stops_no_other() -> None:
    r = await rig()
    updates, made = r.service.updates, r.service.updates.from_record

    async def failing(record: HistoryRecord) -> StateChanged:
        if record.user_id == "eve":
            raise RecursionError
        return await made(record)

    updates.from_record = failing  # type: ignore[method-assign, assignment]
    async with r.service as service:
        flows = service.as_trusted()
        for user in ("ada", "eve", "bob"):
            await flows.start_flow(user, "loop")
        await service.background.relay.drain(5)
        assert [event.user_id for event in r.published] == ["ada", "bob"]
    assert {record.user_id for record in r.history.records.values()} == {"ada", "eve", "bob"}


class Sink:
    """A sink that delivers the records of some users."""

    def __init__(self, durable: bool, users: set[str]) -> None:
        self.durable = durable
        self.users = users
        self.received: list[str] = []

    async def deliver(self, batch: Sequence[HistoryRecord]) -> set[str]:
        self.received += [record.user_id for record in batch]
        return {record.id for record in batch if record.user_id in self.users}


async def test_a_record_leaves_the_outbox_once_every_durable_sink_has_it() -> None:
    r = await rig()
    for user in ("ada", "bob", "eve"):  # by a worker that delivers nothing
        await r.flows.start_flow(user, "loop")
    sinks = [Sink(True, {"ada", "bob"}), Sink(False, {"ada", "bob", "eve"}), Sink(True, {"ada", "eve"})]
    relay = Relay(r.states, sinks, UndeliverableRecords(r.reports, r.clock))
    pending = [record for stored in r.states.stored.values() for record in stored.pending]
    assert await relay.deliver(pending) == []
    assert [sink.received for sink in sinks] == [["ada", "bob", "eve"]] * 3
    assert [key for key, stored in r.states.stored.items() if stored.pending] == ["loop:bob", "loop:eve"]


@pytest.mark.parametrize("place", [0, 1])
async def test_the_last_record_that_was_not_published_stays_in_the_outbox(place: int) -> None:
    r = await rig()
    bus, other, history = Sink(False, set()), Sink(False, {"ada"}), Sink(True, {"ada"})
    immediate = [other, bus] if place else [bus, other]
    relay = Relay(r.states, [*immediate, history], UndeliverableRecords(r.reports, r.clock))
    await r.flows.start_flow("ada", "loop")
    await r.flows.execute_transition("ada", "loop", "again")
    await relay.deliver(r.states.stored["loop:ada"].pending)
    assert [record.revision for record in r.states.stored["loop:ada"].pending] == [1]
    bus.users = {"ada"}
    await relay.deliver(r.states.stored["loop:ada"].pending)
    assert r.states.stored["loop:ada"].pending == ()
