"""The use cases over fakes: what needs a clock that is told, or parts that fail."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from msgspec import UNSET, structs

from app.contracts.callers import trusted_caller
from app.contracts.commands import BatchAction, Origin, StartCommand, trusted_origin
from app.contracts.errors import (
    FlowNotFoundError,
    FlowNotStartedError,
    InvalidTransitionError,
    RateLimitedError,
    RevisionConflictError,
    StateBusyError,
    StoreUnavailableError,
)
from app.contracts.events import DefinitionChanged, Event, Gap
from app.contracts.ports.states import StateFilter, StoredState
from app.contracts.positions import ExpectedPosition
from app.contracts.record import HistoryFilter, HistoryRecord
from app.contracts.state import StateId, StatePosition
from app.services.definitions.checks import MAX_CHECKS
from tests.support.fakes import (
    FakeHistoryStore,
    FakeStateStore,
)
from tests.support.rig import Rig, rig
from tests.support.samples import PROGRAM, flow_dict


async def test_an_expired_state_is_absent_at_once_and_starts_a_new_life() -> None:
    r = await rig(state_ttl=timedelta(hours=1))
    async with r.service as service:
        flows = service.as_trusted()
        first, _ = await flows.start_flow("ada", "loop")
        r.clock.advance(minutes=59)
        moved = await flows.execute_transition("ada", "loop", "again")
        assert moved.expires_at == r.clock.now() + timedelta(hours=1), "renewed by each transition"
        r.clock.advance(minutes=60)
        assert await flows.get_flow_state("ada", "loop") is None
        assert await flows.get_user_flows("ada") == []
        with pytest.raises(FlowNotStartedError):
            await flows.execute_transition("ada", "loop", "again")
        second, started = await flows.start_flow("ada", "loop")
        assert started
        assert second.revision == 0
        assert second.epoch > first.epoch
        assert await r.kinds() == ["started", "transitioned", "expired", "started"]


async def test_what_a_call_made_has_names() -> None:
    r = await rig()
    async with r.service as service:
        flows = service.as_trusted()
        begun = await flows.start_flow("ada", "loop")
        assert (begun.started, begun.state.step) == (True, "a")
        state, started = again = await flows.start_flow("ada", "loop")
        assert (again.state, again.started) == (state, started) == (begun.state, False)

        put = service.definitions.put
        made = await put(flow_dict("other"), actor="root", source="python")
        assert (made.published, made.definition.version) == (True, 1)
        same = await put(flow_dict("other"), actor="root", source="python")
        assert (same.published, same.definition) == (False, made.definition)

        pause, everybody = BatchAction(op="pause", body={"reason": "r"}), StateFilter(flow_id="loop")
        page = await service.bulk.run_on_found(everybody, pause, trusted_origin("root"), after=None, limit=10)
        assert ([outcome.user_id for outcome in page.outcomes], page.next) == (["ada"], None)


async def test_purge_ends_expired_states_with_a_record_and_an_event() -> None:
    r = await rig(state_ttl=timedelta(hours=1))
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("ada", "loop")
        await flows.start_flow("bob", "loop")
        r.clock.advance(minutes=30)
        await flows.start_flow("eve", "loop")
        r.clock.advance(minutes=30)
        assert await service.purge_expired_flows() == 2
        assert await service.purge_expired_flows() == 0
    assert await r.kinds() == ["started", "expired"]
    statuses = {s.state.user_id: s.state.status for s in r.states.stored.values()}
    assert statuses == {"ada": "expired", "bob": "expired", "eve": "active"}
    assert [e.revision for e in r.published if e.user_id == "bob"] == [0, 1]


async def test_time_does_not_go_back_within_a_state() -> None:
    r = await rig()
    first, _ = await r.flows.start_flow("ada", "loop")
    r.clock.advance(hours=-5)
    second = await r.flows.execute_transition("ada", "loop", "again")
    assert second.updated_at == first.updated_at


async def test_who_commits_on_top_of_waiting_records_delivers_those_first() -> None:
    r = await rig()
    other = r.make()  # another worker whose relay never runs
    other_flows = other.as_trusted()
    await other_flows.start_flow("ada", "loop")
    await other_flows.execute_transition("ada", "loop", "again")
    async with r.service as service:
        flows = service.as_trusted()
        await flows.execute_transition("ada", "loop", "go")
    assert [e.revision for e in r.published] == [0, 1, 2]
    assert [record.revision for record in r.history.records.values()] == [0, 1, 2]
    assert r.states.stored["loop:ada"].pending == ()


async def test_the_sweep_delivers_for_a_worker_that_died() -> None:
    r = await rig()
    dead = r.make()
    dead_flows = dead.as_trusted()
    await dead_flows.start_flow("ada", "loop")
    await dead_flows.execute_transition("ada", "loop", "again")
    async with r.service as service:
        await service.background.sweep.run()
        assert r.published == [], "a living worker may still be at it"
        r.clock.advance(seconds=5)
        await service.background.sweep.run()
    assert [e.revision for e in r.published] == [0, 1]
    assert len(r.history.records) == 2
    assert r.states.stored["loop:ada"].pending == ()


async def test_history_is_complete_while_records_wait() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop")
    await r.flows.execute_transition("ada", "loop", "again")
    assert r.history.records == {}
    assert await r.kinds() == ["started", "transitioned"]
    page = await r.flows.get_flow_history("ada", "loop", limit=1)
    rest = await r.flows.get_flow_history("ada", "loop", after=page[0].id)
    assert [x.revision for x in page + rest] == [0, 1]


@pytest.mark.expected_logs("events not published, redis unavailable")
async def test_a_broadcast_that_fails_holds_nothing_up() -> None:
    r = await rig()
    r.bus.broken = True
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("ada", "loop")
    assert len(r.history.records) == 1, "and it waits in the outbox until somebody can tell it"


async def test_delivery_goes_on_after_an_outage_of_the_store() -> None:
    class Failing(FakeHistoryStore):
        failures = 2

        async def append(self, records: Sequence[HistoryRecord]) -> set[str]:
            if self.failures:
                self.failures -= 1
                raise StoreUnavailableError
            return await super().append(records)

    r = await rig()
    r.history = Failing()
    service = r.make()
    flows = service.as_trusted()
    async with service:
        await flows.start_flow("ada", "loop")
    assert len(r.history.records) == 1
    assert r.states.stored["loop:ada"].pending == ()


async def test_a_lost_race_is_decided_again_on_the_new_state() -> None:
    class Rival(FakeStateStore):
        rivals = 3

        async def commit(self, before: StatePosition | None, record: HistoryRecord) -> bool:
            if before is not None and self.rivals:
                self.rivals -= 1
                return False
            return await super().commit(before, record)

    r = await rig()
    r.states = Rival()
    service = r.make()
    flows = service.as_trusted()
    await flows.start_flow("ada", "loop")
    assert (await flows.execute_transition("ada", "loop", "go")).step == "b"


async def test_a_race_that_never_ends_is_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(FakeStateStore):
        async def commit(self, before: StatePosition | None, record: HistoryRecord) -> bool:
            return before is None and await super().commit(before, record)

    r = await rig()
    r.states = Lost()
    service = r.make()
    flows = service.as_trusted()
    await flows.start_flow("ada", "loop")
    monkeypatch.setattr("app.services.states.executor.TIMEOUT_SECONDS", 0.05)
    with pytest.raises(StateBusyError) as refusal:
        await flows.execute_transition("ada", "loop", "go")
    assert (refusal.value.status, refusal.value.retryable, refusal.value.retry_after) == (503, True, 1)


async def test_commands_of_one_state_run_in_turn() -> None:
    """None of many at once loses a race against another one of its process, however many they are."""

    class Counting(FakeStateStore):
        lost = 0

        async def load(self, state_id: StateId) -> StoredState | None:
            found = await super().load(state_id)
            await asyncio.sleep(0)
            return found

        async def commit(self, before: StatePosition | None, record: HistoryRecord) -> bool:
            made = await super().commit(before, record)
            self.lost += not made
            return made

    r = await rig()
    r.states = states = Counting()
    service = r.make()
    flows = service.as_trusted()
    await flows.start_flow("ada", "loop")
    made = await asyncio.gather(*(flows.execute_transition("ada", "loop", "again") for _ in range(200)))
    assert [state.revision for state in made] == list(range(1, 201)), "first come, first served"
    assert states.lost == 0


async def test_a_command_that_fails_gives_up_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(FakeStateStore):
        hangs = False

        async def load(self, state_id: StateId) -> StoredState | None:
            if self.hangs:
                await asyncio.Event().wait()
            return await super().load(state_id)

    r = await rig()
    r.states = states = Hanging()
    service = r.make()
    flows = service.as_trusted()
    await flows.start_flow("ada", "loop")
    await flows.start_flow("bob", "loop")
    monkeypatch.setattr("app.services.states.executor.TIMEOUT_SECONDS", 0.05)
    states.hangs = True
    first = asyncio.create_task(flows.execute_transition("ada", "loop", "again"))
    await asyncio.sleep(0)
    with pytest.raises(StateBusyError):
        await flows.execute_transition("ada", "loop", "again")
    states.hangs = False
    assert (await flows.execute_transition("bob", "loop", "again")).revision == 1, "others do not wait"
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await flows.execute_transition("ada", "loop", "again")).revision == 1


async def test_an_expected_position_that_is_not_the_states_changes_nothing() -> None:
    r = await rig()
    state, _ = await r.flows.start_flow("ada", "loop")
    for wrong in (ExpectedPosition(1), ExpectedPosition(0, "another-epoch")):
        with pytest.raises(RevisionConflictError) as refusal:
            await r.service.execute_transition(
                "ada", "loop", "again", origin=Origin(trusted_caller("ada"), expected=wrong)
            )
        assert refusal.value.details["state"].revision == 0
    right = Origin(trusted_caller("ada"), expected=ExpectedPosition(0, state.epoch))
    moved = await r.service.execute_transition("ada", "loop", "again", origin=right)
    assert moved.revision == 1


async def test_refusals_are_recorded_and_never_answered_late() -> None:
    r = await rig()
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("ada", "loop", StartCommand(service="web"))
        with pytest.raises(InvalidTransitionError):
            await service.execute_transition("ada", "loop", "fly", origin=trusted_origin("boss"))
    refused = list(r.history.records.values())[-1]
    assert (refused.kind, refused.success, refused.error) == ("refused", False, "INVALID_TRANSITION")
    assert (refused.from_step, refused.to_step, refused.transition) == ("a", "a", "fly")
    assert (refused.actor, refused.service, refused.revision) == ("boss", "web", 0)
    assert isinstance(refused.duration_ms, float)


async def test_states_go_on_with_their_version_and_reset_takes_the_newest() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop")
    changed = flow_dict()["steps"]
    changed["a"]["transitions"] = {"fly": {"transition": "fly", "step": "c"}}
    await r.service.update_flow("loop", {"steps": changed})
    state = await r.flows.get_flow_state("ada", "loop")
    assert state is not None
    assert [t.transition for t in state.transitions] == ["jump", "again", "go"]
    assert (await r.flows.execute_transition("ada", "loop", "again")).version == 1
    reset = await r.flows.reset_flow("ada", "loop")
    assert (reset.version, [t.transition for t in reset.transitions]) == (2, ["fly"])


async def test_a_retired_flow_starts_nothing_and_what_runs_goes_on() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop")
    await r.flows.delete_flow("loop")
    assert await r.flows.list_flows() == []
    with pytest.raises(FlowNotFoundError):
        await r.flows.start_flow("bob", "loop")
    assert (await r.flows.execute_transition("ada", "loop", "go")).step == "b"
    assert (await r.flows.reset_flow("ada", "loop")).step == "a"
    assert await r.service.create_flow(flow_dict()) == "loop"
    assert (await r.flows.start_flow("bob", "loop"))[0].version == 3


async def test_a_definition_is_read_once_and_again_after_a_change_elsewhere() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop")
    before = r.definitions.reads
    await asyncio.gather(*(r.flows.start_flow(f"u{n}", "loop") for n in range(50)))
    assert r.definitions.reads == before
    events: list[Event] = [DefinitionChanged(flow_id="loop")]
    await r.bus.publish(events)
    await asyncio.gather(*(r.flows.start_flow(f"v{n}", "loop") for n in range(50)))
    assert r.definitions.reads == before + 1, "many that miss share one read"


async def test_clear_is_reported_and_recorded_and_the_next_life_has_another_epoch() -> None:
    r = await rig()
    async with r.service as service:
        flows = service.as_trusted()
        first, _ = await flows.start_flow("ada", "loop")
        assert await flows.clear_flow_state("ada", "loop")
        assert not await flows.clear_flow_state("ada", "loop")
        assert await flows.get_flow_state("ada", "loop") is None
        second, _ = await flows.start_flow("ada", "loop")
    assert second.epoch != first.epoch
    assert await r.kinds() == ["started", "cleared", "started"]
    assert [(e.epoch, e.revision) for e in r.published] == [
        (first.epoch, 0),
        (first.epoch, 1),
        (second.epoch, 0),
    ]


async def test_a_flows_own_ttl_comes_before_the_settings() -> None:
    r = Rig(state_ttl=timedelta(days=9))
    await r.service.create_flow(flow_dict(ttl="PT1H"))
    state, _ = await r.flows.start_flow("ada", "loop")
    assert state.expires_at == r.clock.now() + timedelta(hours=1)
    r.clock.advance(minutes=30)
    state = await r.flows.execute_transition("ada", "loop", "again")
    assert state.expires_at == r.clock.now() + timedelta(hours=1)
    flow = (await r.flows.list_flows())[0]
    assert flow.ttl == timedelta(hours=1)


async def test_a_waiting_record_is_filtered_like_a_retained_one() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop")
    await r.flows.execute_transition("ada", "loop", "again")
    found = await r.flows.get_flow_history("ada", "loop", only=HistoryFilter(transition="again"))
    assert [x.revision for x in found] == [1]


@pytest.mark.expected_logs("delivery failed")
async def test_a_delivery_that_fails_loses_nothing_and_holds_nothing_up() -> None:
    """One record that cannot be stored: the others are; it waits in its outbox."""

    class Picky(FakeHistoryStore):
        async def append(self, records: Sequence[HistoryRecord]) -> set[str]:
            if any(r.user_id == "poison" for r in records):
                raise RuntimeError("cannot store this")
            return await super().append(records)

    r = await rig()
    r.history = Picky()
    service = r.make()
    flows = service.as_trusted()
    for user in ("ada", "poison", "bob"):
        await flows.start_flow(user, "loop")
    async with service:
        await service.background.relay.drain(5)
    assert {record.user_id for record in r.history.records.values()} == {"ada", "bob"}
    assert {e.user_id for e in r.published} >= {"ada", "bob"}
    pending = {key: len(stored.pending) for key, stored in r.states.stored.items()}
    assert pending == {"loop:ada": 0, "loop:poison": 1, "loop:bob": 0}


@pytest.mark.expected_logs("delivery failed")
async def test_only_what_was_delivered_leaves_the_outbox() -> None:
    class Once(FakeHistoryStore):
        failed = False

        async def append(self, records: Sequence[HistoryRecord]) -> set[str]:
            if not self.failed:
                self.failed = True
                raise RuntimeError("not now")
            return await super().append(records)

    r = await rig()
    r.history = Once()
    service = r.make()
    flows = service.as_trusted()
    await flows.start_flow("ada", "loop")
    async with service:
        await service.background.relay.drain(5)
        assert [record.revision for record in r.states.stored["loop:ada"].pending] == [0]
        await flows.execute_transition("ada", "loop", "again")
        await service.background.relay.drain(5)
    assert [x.revision for x in r.history.records.values()] == [0, 1]
    assert r.states.stored["loop:ada"].pending == ()


async def test_epochs_grow_also_when_a_clock_is_behind() -> None:
    r = await rig()
    ahead = "ffffffff-ffff-7fff-bfff-ffffffffff00"
    first, _ = await r.flows.start_flow("ada", "loop")
    stored = r.states.stored["loop:ada"]
    r.states.stored["loop:ada"] = structs.replace(stored, state=structs.replace(stored.state, epoch=ahead))
    await r.flows.clear_flow_state("ada", "loop")
    second, _ = await r.flows.start_flow("ada", "loop")
    assert second.epoch > ahead > first.epoch


async def test_a_worker_that_was_deaf_asks_for_definitions_again() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop")
    other = r.make()
    r.bus.handlers.clear()  # deaf
    await other.update_flow("loop", {"title": "New"})
    assert (await r.service.definitions.current("loop", PROGRAM)).version == 1
    for missed in r.bus.gap_handlers:
        missed(Gap(r.clock.now()))
    assert (await r.service.definitions.current("loop", PROGRAM)).version == 2


async def test_the_order_of_transitions_is_a_change() -> None:
    r = await rig()
    steps = flow_dict()["steps"]
    steps["a"]["transitions"] = dict(reversed(steps["a"]["transitions"].items()))
    await r.service.update_flow("loop", {"steps": steps})
    assert (await r.service.definitions.current("loop", PROGRAM)).version == 2
    await r.service.update_flow("loop", {"steps": steps})
    assert (await r.service.definitions.current("loop", PROGRAM)).version == 2, "nothing changed"
    await r.service.update_flow("loop", {"meta": {"a": 1}})
    await r.service.update_flow("loop", {"meta": {"a": True}})
    assert (await r.service.definitions.current("loop", PROGRAM)).version == 4


async def test_an_ended_state_stays_as_long_as_its_history() -> None:
    for retention in (None, timedelta(days=90)):
        rig = Rig(history_retention=retention)
        await rig.service.create_flow(flow_dict())
        await rig.flows.start_flow("ada", "loop")
        await rig.flows.clear_flow_state("ada", "loop")
        ended = rig.states.stored["loop:ada"].state
        assert ended.status == "cleared"
        assert ended.expires_at == (UNSET if retention is None else rig.clock.time + retention)


@pytest.mark.expected_logs("events not published, redis unavailable")
async def test_what_could_not_be_reported_waits_for_a_sweep_and_the_outbox_stays_short() -> None:
    r = await rig()
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("ada", "loop")
        await service.background.relay.drain(5)
        r.bus.broken = True
        for _ in range(5):
            await flows.execute_transition("ada", "loop", "again")
            await service.background.relay.drain(5)
        stored = r.states.stored["loop:ada"]
        assert [record.revision for record in stored.pending] == [5], "the last is enough"
        assert len(r.history.records) == 6, "all are kept"
        assert [event.revision for event in r.published] == [0]
        await service.background.sweep.run()
        assert r.states.stored["loop:ada"].pending == stored.pending, "not old enough for the sweep"

        r.bus.broken = False
        other = r.make()  # for which Redis is there
        r.clock.advance(seconds=5)
        async with other:
            await other.background.sweep.run()
            await other.background.relay.drain(5)
        assert [event.revision for event in r.published] == [0, 5]
        assert r.states.stored["loop:ada"].pending == ()
        await flows.execute_transition("ada", "loop", "again")
        await service.background.relay.drain(5)
        assert r.states.stored["loop:ada"].pending == ()
        assert [event.revision for event in r.published] == [0, 5, 6]


@pytest.mark.expected_logs("events not published, redis unavailable")
async def test_a_commit_on_top_of_an_unpublished_one_publishes_it() -> None:
    r = await rig()
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("ada", "loop")
        await service.background.relay.drain(5)
        r.bus.broken = True
        await flows.execute_transition("ada", "loop", "again")
        await service.background.relay.drain(5)
        r.bus.broken = False
        await flows.execute_transition("ada", "loop", "again")
        await service.background.relay.drain(5)
    assert [event.revision for event in r.published] == [0, 1, 2]
    assert r.states.stored["loop:ada"].pending == ()
    assert [record.revision for record in r.history.records.values()] == [0, 1, 2]


@pytest.mark.expected_logs("events not published, redis unavailable")
async def test_more_than_may_wait_is_left_to_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.delivery.outbox_release.MAX_RETAINED", 1)
    r = await rig()
    async with r.service as service:
        flows = service.as_trusted()
        r.bus.broken = True
        for user in ("ada", "bob"):
            await flows.start_flow(user, "loop")
            await service.background.relay.drain(5)
    waiting = {key: len(stored.pending) for key, stored in r.states.stored.items()}
    assert waiting == {"loop:ada": 1, "loop:bob": 0}


async def test_many_who_only_ask_what_is_wrong_are_reported_to_come_again() -> None:
    r = await rig()
    asked = [asyncio.ensure_future(r.service.definitions.check(flow_dict(), PROGRAM)) for _ in range(40)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, RateLimitedError)]
    assert len(refused) == 40 - MAX_CHECKS
    assert await r.service.definitions.check(flow_dict(), PROGRAM) == []
