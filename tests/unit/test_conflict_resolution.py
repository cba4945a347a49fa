"""How transitions meet changes that their callers did not know: two workers over the same fakes."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec import UNSET, structs

from app.contracts.callers import Caller, trusted_caller
from app.contracts.commands import Origin, PauseCommand, StartCommand, trusted_origin
from app.contracts.errors import (
    FlowError,
    FlowNotStartedError,
    InvalidTransitionError,
    RevisionConflictError,
    StatePausedError,
)
from app.contracts.people import Participant
from app.contracts.positions import ExpectedPosition
from app.contracts.record import HistoryRecord, MergedField
from app.contracts.state import FlowState, StateId, StatePosition
from app.contracts.wire.administration import personal_data_view
from tests.support.fakes import FakeHistoryStore, FakeStateStore
from tests.support.rig import Rig
from tests.support.samples import flow_dict

ROOT = trusted_origin("root")
MERGE = {"merge": ["/amount", "/address/street"]}
Rival = Callable[[], Awaitable[object]]


class RacedStates(FakeStateStore):
    """Before each of the next commits a rival of it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.rivals: list[Rival] = []

    async def commit(self, before: StatePosition | None, record: HistoryRecord) -> bool:
        if self.rivals:
            rival, *rest = self.rivals
            self.rivals = []  # it has no rival of its own
            await rival()
            self.rivals = rest
        return await super().commit(before, record)


class CountedHistory(FakeHistoryStore):
    """Counts the reads of single records."""

    reads = 0

    async def get(self, record_id: str) -> HistoryRecord | None:
        self.reads += 1
        return await super().get(record_id)

    async def get_many(self, record_ids: Any) -> list[HistoryRecord]:
        self.reads += 1
        return await super().get_many(record_ids)


class Race(Rig):
    """Ada's state, and another worker with rivals of what happens on this one."""

    states: RacedStates
    history: CountedHistory

    def __init__(self) -> None:
        super().__init__()
        self.states, self.history = RacedStates(), CountedHistory()
        self.service, self.other = self.make(), self.make().as_trusted()

    async def run(
        self,
        payload: Any = UNSET,
        *,
        at: int | ExpectedPosition | tuple[ExpectedPosition, ...] | None = None,
        name: str = "again",
        remove: Any = UNSET,
        **more: Any,
    ) -> FlowState:
        expected = ExpectedPosition(at) if isinstance(at, int) else at
        origin = Origin(trusted_caller("ada"), expected=expected, **more)
        return await self.service.execute_transition(
            "ada", "loop", name, payload, remove=remove, origin=origin
        )

    def rival(self, payload: Any = UNSET, name: str = "again") -> Rival:
        return lambda: self.other.execute_transition("ada", "loop", name, payload)

    async def records(self) -> list[HistoryRecord]:
        return await self.flows.get_flow_history("ada", "loop")

    async def position(self) -> tuple[str, int]:
        state = await self.flows.get_flow_state("ada", "loop")
        assert state is not None
        return state.step, state.revision

    async def deliver(self) -> None:
        """Bring the records that wait to the history, out of the outbox."""
        stored = await self.states.load(StateId("loop", "ada"))
        assert stored is not None
        await self.history.append(list(stored.pending))
        await self.states.release(list(stored.pending))


async def race(rule: Any, payload: Any = UNSET, **flow: Any) -> Race:
    """``rule``: that of every transition of the first step but ``jump``."""
    made = Race()
    definition = flow_dict(**flow)
    for name in ("again", "go"):
        if rule is not None:
            definition["steps"]["a"]["transitions"][name]["conflict"] = rule
    await made.service.create_flow(definition)
    await made.flows.start_flow("ada", "loop", StartCommand(payload=payload))
    return made


async def conflict_of(asked: Awaitable[object]) -> RevisionConflictError:
    with pytest.raises(RevisionConflictError) as raised:
        await asked
    return raised.value


@pytest.mark.parametrize("rule", [None, "retry"])
async def test_by_default_a_lost_race_is_decided_again(rule: str | None) -> None:
    r = await race(rule, {"amount": 1})
    r.states.rivals = [r.rival({"amount": 2}), r.rival({"note": "x"})]
    state = await r.run({"amount": 3})
    assert (state.revision, state.payload) == (3, {"amount": 3, "note": "x"})
    assert all(record.merged is UNSET for record in await r.records())
    await conflict_of(r.run({"amount": 4}, at=2))
    r.states.rivals = [r.rival()]
    await conflict_of(r.run({"amount": 4}, at=3))
    assert r.history.reads == 0


async def test_reject_refuses_a_lost_race_and_changes_nothing() -> None:
    r = await race("reject", {"amount": 1})
    assert (await r.run({"amount": 2})).revision == 1
    r.states.rivals = [r.rival({"note": "x"})]
    conflict = await conflict_of(r.run({"amount": 3}))
    assert "from revision 1 to 2" in conflict.message
    assert conflict.details["state"].revision == 2
    assert "fields" not in conflict.details
    state = await r.flows.get_flow_state("ada", "loop")
    assert state is not None
    assert (state.revision, state.payload) == (2, {"amount": 2, "note": "x"})
    assert (await r.run({"amount": 3})).revision == 3


async def test_reject_is_that_of_the_step_where_the_race_was_lost() -> None:
    r = await race("reject")
    r.states.rivals = [r.rival(name="go")]  # at its step the transition does not exist
    await conflict_of(r.run())
    r = await race(None)
    r.states.rivals = [r.rival(name="go")]
    with pytest.raises(InvalidTransitionError):
        await r.run()


async def test_an_explicit_revision_does_not_help_against_a_race() -> None:
    r = await race("reject")
    any_revision = ExpectedPosition(None)
    r.states.rivals = [r.rival()]
    await conflict_of(r.run(at=any_revision))
    assert (await r.run(at=any_revision)).revision == 2


async def overdue(rule: Any) -> Race:
    steps = flow_dict()["steps"]
    steps["a"]["timeout"] = {"after": "PT1H", "transition": "go"}
    steps["b"]["transitions"]["back"] |= {"step": "b", "conflict": rule}
    made = await race(rule, {"amount": 1}, steps=steps, ttl="P1D")
    made.clock.advance(hours=2)
    return made


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_timeout_that_is_due_counts_as_a_change(dry_run: bool) -> None:
    r = await overdue("reject")
    await conflict_of(r.run(name="back", dry_run=dry_run))
    assert await r.position() == (("a", 0) if dry_run else ("b", 1))
    assert (await (await overdue("retry")).run(name="back", dry_run=dry_run)).step == "b"
    r = await overdue({"merge": ["/note"]})
    assert (await r.run({"amount": 2}, name="back", at=0, dry_run=dry_run)).payload == {"amount": 2}


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_state_that_has_ended_was_not_changed(dry_run: bool) -> None:
    for rule in ("reject", MERGE):
        r = await race(rule, ttl="PT1H")
        r.clock.advance(hours=2)
        with pytest.raises(FlowNotStartedError):
            await r.run(dry_run=dry_run)
    r = await race("reject")
    r.states.rivals = [lambda: r.other.clear_flow_state("ada", "loop")]
    with pytest.raises(FlowNotStartedError):
        await r.run()


@pytest.mark.parametrize("delivered", [True, False])
async def test_merge_lets_the_later_change_win_in_declared_fields(delivered: bool) -> None:
    r = await race(MERGE, {"amount": 1, "address": {"street": "A", "zip": 1}})
    await r.rival({"amount": 2, "note": "theirs"})()
    if delivered:
        await r.deliver()
    state = await r.run({"amount": 3, "address": {"street": "B", "zip": 1}}, at=0, request_id="r-1")
    assert state.payload == {"amount": 3, "note": "theirs", "address": {"street": "B", "zip": 1}}
    assert r.history.reads == delivered, "one read, and none if the record waits in the outbox"
    merged = (MergedField("/amount", 2, 3),)
    assert [record.merged for record in await r.records()] == [UNSET, UNSET, merged]
    again = await r.run({"amount": 3, "address": {"street": "B", "zip": 1}}, at=0, request_id="r-1")
    assert again == state
    assert len(await r.records()) == 3
    assert (await r.flows.verify_flow_history("ada", "loop")).whole


async def test_a_field_that_is_not_declared_is_refused_with_its_pointer() -> None:
    r = await race(MERGE, {"address": {"street": "A", "zip": 1}})
    await r.rival({"amount": 2, "address": {"street": "B", "zip": 2}, "note": "theirs"})()
    sent = {"amount": 3, "address": {"street": "C", "zip": 1}, "note": "ours"}
    conflict = await conflict_of(r.run(sent, at=0))
    assert conflict.details["fields"] == ["/address/zip", "/note"]
    assert conflict.details["state"].revision == 1
    assert "/address/zip, /note" in conflict.message
    assert await r.position() == ("a", 1)
    assert (await r.run({"amount": 3}, at=0)).revision == 2, "it does not send the others"


async def test_many_fields_are_reported_up_to_a_limit() -> None:
    r = await race(MERGE)
    await r.rival({f"n{n}": 1 for n in range(150)})()
    conflict = await conflict_of(r.run({f"n{n}": 2 for n in range(150)}, at=0))
    assert len(conflict.details["fields"]) == 100
    assert conflict.message.count("/n") == 5


async def test_requests_without_a_conflict_go_through() -> None:
    r = await race(MERGE, {"amount": 1, "note": "n"})
    await r.rival({"amount": 2})()
    assert (await r.run({"other": 1}, at=0)).payload == {"amount": 2, "note": "n", "other": 1}
    assert (await r.run({"amount": 2}, at=0)).revision == 3, "the same value is no conflict"
    assert (await r.run(remove=("/note",), at=0)).payload == {"amount": 2, "other": 1}
    reads = r.history.reads
    assert (await r.run(at=0)).revision == 5, "it sends nothing"
    assert (await r.run({"amount": 9}, at=4)).revision == 6, "the payload has not changed since then"
    assert r.history.reads == reads
    assert all(record.merged is UNSET for record in await r.records())


async def test_a_removal_conflicts_too() -> None:
    r = await race({"merge": ["/a"]}, {"a": {"x": 1}, "b": 1, "c": [1, 2]})
    await r.rival({"a": {"x": 2}, "b": 2, "c": [2]})()
    assert (await conflict_of(r.run(remove=("/a/x", "/b"), at=0))).details["fields"] == ["/b"]
    assert (await conflict_of(r.run(remove=("/c/0",), at=0))).details["fields"] == ["/c"]
    assert (await r.run(remove=("/a/x",), at=0)).payload == {"a": {}, "b": 2, "c": [2]}
    assert (await r.records())[-1].merged == (MergedField("/a/x", theirs=2),)


async def test_a_lost_race_merges_without_a_named_revision_and_without_a_read() -> None:
    r = await race(MERGE, {"amount": 1})
    r.states.rivals = [r.rival({"amount": 2}), r.rival({"amount": 3, "note": "x"})]
    state = await r.run({"amount": 4})
    assert (state.revision, state.payload) == (3, {"amount": 4, "note": "x"})
    assert (await r.records())[-1].merged == (MergedField("/amount", 3, 4),)
    r.states.rivals = [r.rival({"note": "y"})]
    conflict = await conflict_of(r.run({"note": "z"}))
    assert conflict.details["fields"] == ["/note"]
    r.states.rivals = [r.rival({"amount": 5})]
    assert (await r.run({"amount": 6}, at=4)).revision == 6, "it was the named revision when it was loaded"
    assert r.history.reads == 0


async def test_a_merge_is_decided_on_the_present_state() -> None:
    r = await race(MERGE, {"amount": 1})
    await r.rival({"amount": 2}, "go")()
    await conflict_of(r.run({"amount": 3}, at=0))
    with pytest.raises(InvalidTransitionError):
        await r.run({"amount": 3})
    await r.flows.execute_transition("ada", "loop", "back")
    r.states.rivals = [r.rival(name="go")]
    with pytest.raises(InvalidTransitionError):
        await r.run({"amount": 3})
    r = await race(MERGE, {"amount": 1})
    await r.rival({"amount": 2})()
    await r.service.administration.pause_flow("ada", "loop", PauseCommand("audit"), origin=ROOT)
    with pytest.raises(StatePausedError):
        await r.run({"amount": 3}, at=0)


async def test_another_epoch_and_a_later_revision_stay_conflicts() -> None:
    r = await race(MERGE, {"amount": 1})
    state = await r.run({"amount": 2})
    for never in (9, -1):
        await conflict_of(r.run({"amount": 3}, at=never))
        await conflict_of(r.run(at=never))
    await conflict_of(r.run({"amount": 3}, at=ExpectedPosition(0, "another")))
    await conflict_of(r.run({"amount": 3}, at=ExpectedPosition(None, "another")))

    async def begin_again() -> None:
        await r.other.clear_flow_state("ada", "loop")
        await r.other.start_flow("ada", "loop")

    r.states.rivals = [begin_again]
    assert "anew" in (await conflict_of(r.run({"amount": 3}))).message
    await conflict_of(r.run({"amount": 3}, at=ExpectedPosition(0, state.epoch)))
    assert await r.position() == ("a", 0)


async def test_of_several_revisions_the_latest_counts() -> None:
    r = await race(MERGE, {"note": 1})
    for number in (2, 3):
        await r.rival({"note": number})()
    state = await r.flows.get_flow_state("ada", "loop")
    assert state is not None
    await r.rival({"amount": 1})()
    named = tuple(ExpectedPosition(revision, state.epoch) for revision in (0, 2, 9))
    assert (await r.run({"note": 4}, at=named)).payload == {"amount": 1, "note": 4}


async def test_a_reset_is_a_change_of_every_field() -> None:
    r = await race(MERGE, {"amount": 1, "note": "n"})
    await r.flows.reset_flow("ada", "loop")
    assert (await conflict_of(r.run({"note": "m"}, at=0))).details["fields"] == ["/note"]
    assert (await r.run({"amount": 1}, at=0)).payload == {"amount": 1}
    assert (await r.records())[-1].merged == (MergedField("/amount", ours=1),)


@pytest.mark.parametrize("harm", ["missing", "altered", "erased", "its payload is missing"])
async def test_without_the_record_of_the_named_revision_it_stays_a_conflict(harm: str) -> None:
    r = await race(MERGE, {"amount": 1})
    await r.run()
    await r.run({"amount": 2})
    await r.deliver()
    records = sorted(r.history.records.values(), key=lambda record: record.revision)
    harmed = records[0] if harm == "its payload is missing" else records[1]
    if "missing" in harm:
        del r.history.records[harmed.id]
    else:
        change: Any = {"salt": UNSET, "request_id": UNSET} if harm == "erased" else {"to_step": "b"}
        r.history.records[harmed.id] = structs.replace(harmed, **change)
    conflict = await conflict_of(r.run({"amount": 3}, at=1))
    assert "fields" not in conflict.details
    assert (await r.run(at=1)).revision == 3, "nothing is sent that could conflict"


async def test_a_dry_run_answers_alike_and_changes_nothing() -> None:
    r = await race(MERGE, {"amount": 1})
    await r.rival({"amount": 2, "note": "x"})()
    state = await r.run({"amount": 3}, at=0, dry_run=True)
    assert state.payload == {"amount": 3, "note": "x"}
    await conflict_of(r.run({"note": "y"}, at=0, dry_run=True))
    assert await r.position() == ("a", 1)
    assert len(await r.records()) == 2


async def test_a_refusal_is_recorded_and_a_merge_is_user_data() -> None:
    r = await race(MERGE, {"amount": "secret-1"})
    await r.rival({"amount": "secret-2", "note": 1})()
    await conflict_of(r.run({"note": 2}, at=0))
    await r.run({"amount": "secret-3"}, at=0)
    async with r.service as service:
        await service.background.relay.drain(5)
        refused = [record for record in await r.records() if record.kind == "refused"]
        assert [record.error for record in refused] == ["REVISION_CONFLICT"]
        exported = personal_data_view(await service.personal_data.export("ada"))
        (view,) = (view for view in exported.history if view.merged is not UNSET)
        assert view.merged == (MergedField("/amount", "secret-2", "secret-3"),)
        await service.personal_data.erase("ada", ROOT)
        await service.background.relay.drain(5)
        assert (await service.as_trusted().verify_flow_history("ada", "loop")).whole
    assert "secret" not in repr(r.history.records)


@pytest.mark.parametrize("merged", [UNSET, (), (MergedField("/amount", 2, 4),)])
async def test_an_altered_merge_is_found(merged: Any) -> None:
    r = await race(MERGE, {"amount": 1})
    await r.rival({"amount": 2})()
    await r.run({"amount": 3}, at=0)
    await r.deliver()
    (record,) = (record for record in r.history.records.values() if record.merged is not UNSET)
    assert (await r.flows.verify_flow_history("ada", "loop")).whole
    r.history.records[record.id] = structs.replace(record, merged=merged)
    found = await r.flows.verify_flow_history("ada", "loop")
    assert found.broken is not None
    assert found.broken.id == record.id


async def test_whoever_may_not_see_the_state_learns_nothing_of_it() -> None:
    r = await race(MERGE, {"amount": 1})
    await r.rival({"amount": 2, "note": 1})()
    origin = Origin(Caller("eve"), expected=ExpectedPosition(0))
    with pytest.raises(FlowError) as raised:
        await r.service.execute_transition("ada", "loop", "again", {"note": 2}, origin=origin)
    assert raised.value.code == "INSUFFICIENT_PERMISSIONS"


HIDING: dict[str, Any] = {
    "flow": "loan",
    "initialStep": "open",
    "sensitive": {"/salary": [], "/people/*": []},
    "participants": {"clerk": {"assignable": True}},
    "steps": {
        "open": {
            "index": 0,
            "step": "open",
            "service": "desk",
            "transitions": {
                "own": {"transition": "own", "step": "open"},
                "note": {
                    "transition": "note",
                    "step": "open",
                    "roles": ["clerk"],
                    "conflict": {"merge": ["/note"]},
                },
            },
        }
    },
}


async def test_a_conflict_reveals_neither_hidden_values_nor_hidden_names() -> None:
    made = Rig()
    await made.service.create_flow(HIDING)
    owner = Origin(Caller("ada"))
    people = (Participant("clerk", user_id="cleo"),)
    start = StartCommand(payload={"salary": 1, "note": 1, "people": {"x": 1}}, participants=people)
    first, _ = await made.service.start_flow("ada", "loan", start, origin=owner)
    later = {"salary": 777, "people": {"x": 1, "eve": 2}}
    await made.service.execute_transition("ada", "loan", "own", later, origin=owner)
    stale = Origin(Caller("cleo"), dry_run=True, expected=ExpectedPosition(first.revision, first.epoch))

    async def conflict(payload: Any, remove: Any = UNSET) -> tuple[str, Any]:
        asked = made.service.execute_transition("ada", "loan", "note", payload, remove=remove, origin=stale)
        found = await conflict_of(asked)
        return found.message, found.details["fields"]

    assert await conflict({"salary": 777}) == await conflict({"salary": 5})
    assert (await conflict({"salary": 777}))[1] == ["/salary"]
    assert (await conflict({}, ("/people",)))[1] == ["/people"]
    assert (await conflict({"people": {"eve": 2}}))[1] == (await conflict({"people": {"eve": 3}}))[1]
    both = await made.service.execute_transition("ada", "loan", "note", {"note": 2}, origin=stale)
    assert both.payload == {"note": 2, "people": {}}
