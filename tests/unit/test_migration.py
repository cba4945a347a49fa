"""The move of running states over fakes: races, outages, clocks, and what one call does."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET, json, structs

from app.contracts.callers import trusted_caller
from app.contracts.commands import Origin, StartCommand, trusted_origin
from app.contracts.errors import (
    FlowNotFoundError,
    FlowStateCorruptionError,
    InvalidRequestError,
    StateBusyError,
    StoreUnavailableError,
)
from app.contracts.migration import MigrateCommand, MigrationReport
from app.contracts.ports.states import StoredState
from app.contracts.positions import ExpectedPosition
from app.contracts.record import HistoryRecord
from app.contracts.state import FlowState, StateId, StatePosition
from app.services.administration import migration
from tests.support.rig import Rig
from tests.support.samples import PROGRAM, flow_dict
from tests.support.versions import edited, renamed, without

OLD = flow_dict()
RENAMED = renamed(OLD, "b", "b2")
ROOT = trusted_origin("root", client="tests")


def members(flow: dict[str, Any]) -> dict[str, Any]:
    return {name: member for name, member in flow.items() if name != "flow"}


async def rig(*versions: dict[str, Any], **limits: Any) -> Rig:
    """A rig in which the flow has these versions after the first one, and starts on that."""
    made = Rig(**limits)
    await made.service.create_flow(OLD)
    for version in versions:
        await made.service.update_flow("loop", members(version))
    return made


async def put(r: Rig, user: str, step: str, **changes: Any) -> FlowState:
    """A state at a step of version 1."""
    state, _ = await r.flows.start_flow(user, "loop", StartCommand(step="a"))
    stored = r.states.stored[f"loop:{user}"]
    old = structs.replace(state, version=1, step=step, transitions=(), **changes)
    r.states.stored[f"loop:{user}"] = structs.replace(stored, state=old)
    return old


async def migrate(r: Rig, mapping: Any = None, origin: Origin = ROOT, **more: Any) -> MigrationReport:
    command = MigrateCommand(1, 2, mapping or {}, **more)
    return await r.service.migration.migrate("loop", command, origin=origin)


def stands(r: Rig) -> dict[str, tuple[str, int]]:
    return {key[5:]: (found.state.step, found.state.version) for key, found in r.states.stored.items()}


async def test_running_states_are_moved_and_others_are_left_alone() -> None:
    r = await rig(RENAMED)
    await put(r, "at-a", "a")
    await put(r, "at-b", "b", previous="a")
    await put(r, "held", "b", status="paused", pause_reason="audit")
    await put(r, "done", "c", status="completed")
    await put(r, "gone", "b", status="cleared")
    await put(r, "past", "b", expires_at=r.clock.now())
    await r.flows.start_flow("new", "loop")
    before = {
        key: found for key, found in r.states.stored.items() if key[5:] in ("done", "gone", "past", "new")
    }
    report = await migrate(r, {"b": "b2"})
    assert (report.moved, report.failed, report.remaining, report.failures) == (3, 0, 0, [])
    assert {user: where for user, where in stands(r).items() if f"loop:{user}" not in before} == {
        "at-a": ("a", 2),
        "at-b": ("b2", 2),
        "held": ("b2", 2),
    }
    assert {key: r.states.stored[key] for key in before} == before
    assert r.states.stored["loop:held"].state.pause_reason == "audit"
    assert r.states.stored["loop:at-b"].state.previous == "a"


async def test_the_change_is_recorded_reported_and_goes_on_in_the_chain() -> None:
    r = await rig()
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("ada", "loop", StartCommand(payload={"x": 1}))
        await flows.execute_transition("ada", "loop", "go")
        await service.update_flow("loop", members(RENAMED))
        origin = Origin(trusted_caller("root"), request_id="r-1", client="http", expected=ExpectedPosition(9))
        assert (await migrate(r, {"b": "b2"}, origin)).moved == 1
        await flows.execute_transition("ada", "loop", "done")
        history = await flows.get_flow_history("ada", "loop")
        assert (await flows.verify_flow_history("ada", "loop")).whole
    assert [r.kind for r in history] == ["started", "transitioned", "migrated", "transitioned"]
    made = history[2]
    assert (made.transition, made.from_step, made.to_step, made.version) == ("migrated", "b", "b2", 2)
    assert made.payload == {"fromVersion": 1, "toVersion": 2, "fromStep": "b", "toStep": "b2"}
    assert (made.actor, made.client, made.request_id, made.revision) == ("root", "http", UNSET, 2)
    assert made.after is not UNSET
    assert made.after.payload == {"x": 1}
    event = json.decode(next(e.body for e in r.published if e.revision == 2))
    assert (event["kind"], event["step"], event["version"], event["fromStep"]) == ("migrated", "b2", 2, "b")
    assert [t["transition"] for t in event["transitions"]] == ["back", "done"]


async def test_run_again_it_finds_nothing_and_changes_nothing() -> None:
    r = await rig(RENAMED)
    for n in range(5):
        await put(r, f"u{n}", "b")
    assert (await migrate(r, {"b": "b2"})).moved == 5
    before = dict(r.states.stored)
    again = await migrate(r, {"b": "b2"})
    assert (again.moved, again.failed, again.remaining) == (0, 0, 0)
    assert r.states.stored == before


async def test_a_dry_run_changes_nothing_and_predicts_the_run() -> None:
    r = await rig(RENAMED)
    for n in range(12):
        await put(r, f"u{n:02}", "ab"[n % 2])
    await put(r, "odd", "nowhere")
    before = dict(r.states.stored)
    bare = await migrate(r, dry_run=True)
    fates = {s.step: (s.fit.count, s.need_mapping.count, s.stuck.count) for s in bare.steps}
    assert fates == {"a": (6, 0, 0), "b": (0, 6, 0), "c": (0, 0, 0), "nowhere": (0, 0, 1)}
    assert [(p.step, p.to) for p in bare.proposals] == [("b", "b2")]
    mapping = {proposal.step: proposal.to for proposal in bare.proposals}
    rehearsed = await migrate(r, mapping, dry_run=True)
    assert (rehearsed.dry_run, rehearsed.moved, rehearsed.failed, rehearsed.remaining) == (True, 0, 0, 13)
    assert r.states.stored == before
    assert r.published == []
    done = await migrate(r, mapping)
    assert done.steps == rehearsed.steps
    assert done.moved == sum(step.fit.count for step in rehearsed.steps) == 12
    assert done.failed == sum(step.stuck.count for step in rehearsed.steps) == 1
    assert done.remaining == 1
    assert done.failures[0].error.code == "FLOW_STATE_CORRUPTION"


async def test_what_has_nowhere_to_go_stops_the_run_before_anything_is_changed() -> None:
    r = await rig(without(OLD, "b", "c"))
    await put(r, "u1", "a")
    await put(r, "u2", "b")
    before = dict(r.states.stored)
    with pytest.raises(InvalidRequestError) as refusal:
        await migrate(r)
    assert [fault.pointer for fault in refusal.value.faults] == ["/mapping/b"]
    assert "maybe 'c'" in refusal.value.message
    assert r.states.stored == before
    left = await migrate(r, {"b": None})
    assert (left.moved, left.remaining) == (1, 0), "those that are to be left do not remain"
    assert stands(r) == {"u1": ("a", 2), "u2": ("b", 1)}
    assert next(step.left.user_ids for step in left.steps if step.step == "b") == ["u2"]
    assert (await migrate(r, {"b": "c"})).moved == 1
    assert r.states.stored["loop:u2"].state.status == "completed"


async def test_bad_requests_name_every_fault() -> None:
    r = await rig(RENAMED)
    with pytest.raises(InvalidRequestError) as refusal:
        await migrate(r, {"x": "y", "b": "b2"})
    assert [fault.pointer for fault in refusal.value.faults] == ["/mapping/x", "/mapping/x"]
    service = r.service.migration
    for versions in ((1, 9), (9, 1)):
        with pytest.raises(FlowNotFoundError) as missing:
            await service.migrate("loop", MigrateCommand(*versions), origin=ROOT)
        assert missing.value.details["version"] == 9
    with pytest.raises(InvalidRequestError) as same:
        await service.migrate("loop", MigrateCommand(2, 2), origin=ROOT)
    assert same.value.faults[0].pointer == "/to"
    await r.flows.delete_flow("loop")
    with pytest.raises(InvalidRequestError) as retired:
        await service.migrate("loop", MigrateCommand(1, 3), origin=ROOT)
    assert "end of the flow" in retired.value.message
    await put_on_retired(r)
    assert (await service.migrate("loop", MigrateCommand(1, 2, {"b": "b2"}), origin=ROOT)).moved == 1


async def put_on_retired(r: Rig) -> None:
    await r.service.create_flow(OLD)
    await put(r, "u", "b")
    await r.flows.delete_flow("loop")


async def test_back_to_an_older_version() -> None:
    r = await rig(RENAMED)
    await put(r, "u", "b")
    await migrate(r, {"b": "b2"})
    report = await r.service.migration.migrate(
        "loop", MigrateCommand(2, 1, {"b2": "b"}), origin=trusted_origin("python", "python")
    )
    assert report.moved == 1
    assert stands(r) == {"u": ("b", 1)}


async def test_a_transition_that_was_first_is_retained_and_the_state_moved_from_where_it_went() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop")
    await r.service.update_flow("loop", members(RENAMED))
    commit = r.states.commit
    raced = False

    async def race(before: StatePosition | None, record: HistoryRecord) -> bool:
        nonlocal raced
        if record.kind == "migrated" and not raced:
            raced = True
            await r.flows.execute_transition("ada", "loop", "go")
        return await commit(before, record)

    r.states.commit = race  # type: ignore[method-assign]
    assert (await migrate(r, {"b": "b2"})).moved == 1
    assert raced
    assert stands(r) == {"ada": ("b2", 2)}
    assert await r.kinds() == ["started", "transitioned", "migrated"]


async def test_a_state_that_comes_to_an_unmapped_step_meanwhile_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop")
    await r.service.update_flow("loop", members(without(OLD, "b", "c")))
    running = r.states.list_running

    async def and_it_moves(*asked: Any) -> list[StateId]:
        found = await running(*asked)
        if found and r.states.stored["loop:ada"].state.step == "a":
            await r.flows.execute_transition("ada", "loop", "go")
        return found

    monkeypatch.setattr(r.states, "list_running", and_it_moves)
    async with r.service:
        report = await migrate(r)
    assert (report.moved, report.failed, report.remaining) == (0, 1, 1)
    (failure,) = report.failures
    assert (failure.user_id, failure.error.code) == ("ada", "INVALID_REQUEST")
    assert failure.error.details["errors"][0]["pointer"] == "/mapping/b"
    assert stands(r) == {"ada": ("b", 1)}
    assert await r.kinds() == ["started", "transitioned", "refused"]


async def test_states_that_start_on_the_old_version_meanwhile_are_found_by_another_pass() -> None:
    r = await rig(RENAMED)
    await put(r, "m", "b")
    load = r.states.load
    stale = iter(["a-first", "z-last"])

    async def and_another_starts(state_id: StateId) -> StoredState | None:
        if state_id.user_id in ("m", "a-first") and (late := next(stale, None)):
            await put(r, late, "a")
        return await load(state_id)

    r.states.load = and_another_starts  # type: ignore[method-assign]
    report = await migrate(r, {"b": "b2"})
    assert (report.moved, report.remaining) == (3, 0)


@pytest.mark.expected_logs("state recovered")
async def test_a_damaged_state_fails_alone_with_advice() -> None:
    r = await rig(RENAMED)
    for n in range(3):
        await put(r, f"u{n}", "a")
    await put(r, "odd", "b2")
    report = await migrate(r, {"b": "b2"})
    assert (report.moved, report.failed, report.remaining) == (3, 1, 1)
    (failure,) = report.failures
    assert (failure.user_id, failure.error.code) == ("odd", "FLOW_STATE_CORRUPTION")
    assert "recover would" in failure.error.message
    with pytest.raises(FlowStateCorruptionError):
        await r.flows.get_flow_state("odd", "loop")
    await r.service.administration.recover_flow("odd", "loop", origin=trusted_origin("odd"))
    assert (await r.flows.get_flow_state("odd", "loop")) is not None


async def test_states_that_cannot_be_moved_do_not_block_the_others() -> None:
    r = await rig(RENAMED)
    for n in range(3):
        await put(r, f"a-odd{n}", "nowhere")
    for n in range(3):
        await put(r, f"u{n}", "a")
    report = await migrate(r, limit=2)
    assert (report.moved, report.failed, report.remaining) == (2, 3, 4)


async def test_those_that_are_left_do_not_count_for_the_limit() -> None:
    r = await rig(RENAMED)
    await put(r, "first", "b")
    await put(r, "second", "a")
    assert (await migrate(r, {"b": None}, limit=1)).moved == 1
    assert stands(r) == {"first": ("b", 1), "second": ("a", 2)}


async def test_failed_states_count_for_the_limit_once_they_are_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    r = await rig(RENAMED)
    for user, step in (("odd0", "x"), ("odd1", "x"), ("u0", "a"), ("u1", "a"), ("u2", "a"), ("u3", "a")):
        await put(r, user, step)
    running = r.states.list_running
    calls = 0

    async def and_then_the_odd_are_gone(*asked: Any) -> list[StateId]:
        nonlocal calls
        calls += 1
        if calls == 2:
            del r.states.stored["loop:odd0"], r.states.stored["loop:odd1"]
        return await running(*asked)

    monkeypatch.setattr(r.states, "list_running", and_then_the_odd_are_gone)
    report = await migrate(r, limit=2)
    assert (report.moved, report.failed, report.remaining) == (2, 2, 2)


async def test_what_may_be_tried_again_is() -> None:
    r = await rig(RENAMED)
    await put(r, "ada", "a")
    load = r.states.load
    tried = 0

    async def conflicts_at_first(state_id: StateId) -> StoredState | None:
        nonlocal tried
        tried += 1
        if tried == 1:
            raise StateBusyError(state_id.flow_id)
        return await load(state_id)

    r.states.load = conflicts_at_first  # type: ignore[method-assign]
    report = await migrate(r)
    assert (report.moved, report.failed, tried) == (1, 0, 2)


@pytest.mark.parametrize(
    ("meanwhile", "left"),
    [
        ({"step": "b2", "version": 2}, {}),
        ({"step": "c", "status": "completed"}, {}),
        ({"step": "b"}, {"b": None}),
    ],
)
async def test_what_is_none_to_be_moved_any_more_is_left_alone(
    meanwhile: Any, left: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else moved it, it came to its end, or to a step whose states are to be left."""
    r = await rig(RENAMED)
    old = await put(r, "ada", "a")
    running = r.states.list_running

    async def and_it_went_on(*asked: Any) -> list[StateId]:
        found = await running(*asked)
        stored = r.states.stored["loop:ada"]
        r.states.stored["loop:ada"] = structs.replace(stored, state=structs.replace(old, **meanwhile))
        return found

    monkeypatch.setattr(r.states, "list_running", and_it_went_on)
    report = await migrate(r, left)
    assert (report.moved, report.failed, report.remaining) == (0, 0, 0)
    assert r.states.stored["loop:ada"].state == structs.replace(old, **meanwhile)


async def test_one_call_moves_no_more_than_its_limit_and_the_next_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    r = await rig(RENAMED)
    for n in range(25):
        await put(r, f"u{n:02}", "b")
    running = r.states.list_running
    asked: list[int] = []

    async def noted(flow_id: str, version: int, without: Any, limit: int, now: Any) -> list[StateId]:
        asked.append(limit)
        return await running(flow_id, version, without, limit, now)

    monkeypatch.setattr(r.states, "list_running", noted)
    calls = [await migrate(r, {"b": "b2"}, limit=10) for _ in range(4)]
    assert min(asked) > 0, "to MongoDB a limit of 0 is none"
    assert [(call.moved, call.remaining) for call in calls] == [(10, 15), (10, 5), (5, 0), (0, 0)]
    assert set(stands(r).values()) == {("b2", 2)}
    assert {len(await r.flows.get_flow_history(f"u{n:02}", "loop")) for n in range(25)} == {2}


async def test_one_call_ends_after_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    r = await rig(RENAMED)
    for n in range(8):
        await put(r, f"u{n}", "b")
    monkeypatch.setattr(migration, "CONCURRENCY", 2)
    monkeypatch.setattr(migration, "MAX_SECONDS", 0.1)
    commit = r.states.commit

    async def slowly(before: StatePosition | None, record: HistoryRecord) -> bool:
        await asyncio.sleep(0.08)
        return await commit(before, record)

    r.states.commit = slowly  # type: ignore[method-assign]
    report = await migrate(r, {"b": "b2"})
    assert (report.moved, report.remaining) == (4, 4), "those under way are finished"


async def test_a_run_without_the_store_fails_and_can_be_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(migration, "PAUSE_SECONDS", 0)
    r = await rig(RENAMED)
    for n in range(400):
        await put(r, f"u{n:03}", "b")
    commit = r.states.commit
    made = 0

    async def breaks(before: StatePosition | None, record: HistoryRecord) -> bool:
        nonlocal made
        if made == 100:
            raise StoreUnavailableError
        made += 1
        return await commit(before, record)

    r.states.commit = breaks  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        await migrate(r, {"b": "b2"})
    assert list(stands(r).values()).count(("b2", 2)) == 100
    r.states.commit = commit  # type: ignore[method-assign]
    assert (await migrate(r, {"b": "b2"})).moved == 300
    assert set(stands(r).values()) == {("b2", 2)}


async def test_a_store_that_answers_again_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "PAUSE_SECONDS", 0)
    r = await rig(RENAMED)
    for n in range(200):
        await put(r, f"u{n:03}", "b")
    commit = r.states.commit
    asked = 0

    async def breaks_now_and_then(before: StatePosition | None, record: HistoryRecord) -> bool:
        nonlocal asked
        asked += 1
        if asked % 70 == 0:
            raise StoreUnavailableError
        return await commit(before, record)

    r.states.commit = breaks_now_and_then  # type: ignore[method-assign]
    report = await migrate(r, {"b": "b2"})
    assert (report.moved, report.failed, report.remaining) == (200, 0, 0)
    assert asked > 200


@pytest.mark.expected_logs("state not migrated")
async def test_an_unexpected_failure_is_reported_without_its_message() -> None:
    r = await rig(RENAMED)
    await put(r, "ada", "b")
    await put(r, "bob", "b")
    load = r.states.load

    async def odd(state_id: StateId) -> StoredState | None:
        if state_id.user_id == "ada":
            raise KeyError("secret")
        return await load(state_id)

    r.states.load = odd  # type: ignore[method-assign]
    report = await migrate(r, {"b": "b2"})
    assert (report.moved, report.failed) == (1, 1)
    assert report.failures[0].error.code == "INTERNAL_ERROR"
    assert "secret" not in report.failures[0].error.message


async def test_of_many_failures_the_first_are_shown() -> None:
    r = await rig(RENAMED)
    for n in range(130):
        await put(r, f"u{n:03}", "nowhere")
    report = await migrate(r)
    assert (report.failed, len(report.failures)) == (130, 100)
    assert [failure.user_id for failure in report.failures] == [f"u{n:03}" for n in range(100)]


async def test_a_timeout_that_is_due_runs_before_the_state_is_moved() -> None:
    r = Rig()
    timed = edited(OLD, a__timeout={"after": "PT1H", "transition": "go"})
    await r.service.create_flow(timed)
    await r.flows.start_flow("due", "loop")
    r.clock.advance(minutes=40)
    await r.flows.start_flow("waits", "loop")
    began = r.clock.now()
    await r.service.update_flow("loop", members(renamed(timed, "b", "b2")))
    r.clock.advance(minutes=30)
    assert (await migrate(r, {"b": "b2"})).moved == 2
    assert stands(r) == {"due": ("b2", 2), "waits": ("a", 2)}
    assert await r.kinds("due") == ["started", "transitioned", "migrated"]
    assert r.states.stored["loop:waits"].state.timeout_at == began + timedelta(hours=1), "it goes on"
    r.clock.advance(minutes=30)
    assert await r.service.background.due_changes.run_timeouts() == 1
    assert stands(r)["waits"] == ("b2", 2)


async def test_the_time_to_live_of_the_new_version_counts_from_the_move() -> None:
    r = await rig(edited(OLD, ttl="PT2H"), state_ttl=timedelta(hours=1))
    await put(r, "ada", "a", expires_at=r.clock.now() + timedelta(minutes=30))
    r.clock.advance(minutes=10)
    await migrate(r)
    assert r.states.stored["loop:ada"].state.expires_at == r.clock.now() + timedelta(hours=2)


async def test_progress_is_reported_state_by_state() -> None:
    r = await rig(RENAMED)
    for n in range(5):
        await put(r, f"u{n}", "a")
    progress: list[int] = []
    await r.service.migration.migrate(
        "loop", MigrateCommand(1, 2), progress=progress.append, origin=trusted_origin("python", "python")
    )
    assert progress == [1, 2, 3, 4, 5]


async def test_the_difference_of_versions_is_for_who_may_see_the_flow() -> None:
    r = await rig(RENAMED)
    found = await r.service.migration.diff("loop", 1, 2, PROGRAM)
    assert (found.verdict, found.steps.removed) == ("breaking", ["b"])
    back = await r.service.migration.diff("loop", 2, 1, PROGRAM)
    assert (back.steps.removed, back.steps.added) == (["b2"], ["b"])
    with pytest.raises(FlowNotFoundError):
        await r.service.migration.diff("loop", 1, 3, PROGRAM)
