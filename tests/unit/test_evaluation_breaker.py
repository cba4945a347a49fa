"""The circuit breaker: an evaluation that took much longer than estimated is not repeated for a while."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import structs

from app.contracts.commands import StartCommand
from app.contracts.errors import GuardRefusedError, InvalidPayloadError
from app.flow.conditions import evaluation_breaker
from app.flow.conditions.evaluation_breaker import (
    MAX_OPEN,
    OPEN_SECONDS,
    EvaluationBreaker,
    Place,
    Subject,
    own_thread_time,
)
from tests.support.log_events import LogEvents
from tests.support.rig import rig
from tests.support.samples import flow_dict

TOO_LONG = "evaluation took too long, refused for a while"
SUBJECT = Subject("guard", "payload.a > 1", 100.0, 0.025, Place("loop", "a", "go"))


class Machine:
    """A clock and the processor time of a thread, which evaluations advance."""

    def __init__(self) -> None:
        self.clock = 1000.0
        self.thread = 0.0
        self.evaluations = 0
        self.breaker = EvaluationBreaker(4, lambda: self.clock, lambda: self.thread)

    def evaluate(self, subject: Subject = SUBJECT, seconds: float = 0.0, thread: float | None = None) -> bool:
        """Evaluate something slow; True if it was evaluated."""

        def work() -> str:
            self.evaluations += 1
            self.clock += seconds
            self.thread += seconds if thread is None else thread
            return "found"

        return self.breaker.evaluate(subject, work) == "found"


@pytest.mark.expected_logs(TOO_LONG)
def test_what_took_too_long_is_refused_and_named_in_the_log(log_events: LogEvents) -> None:
    machine = Machine()
    assert machine.evaluate(seconds=6.0), "it cannot be interrupted"
    assert not machine.evaluate()
    assert machine.evaluations == 1
    (entry,) = log_events.named(TOO_LONG)
    assert entry["log_level"] == "error"
    named = {name: entry[name] for name in ("kind", "flow", "step", "transition", "seconds")}
    assert named == {"kind": "guard", "flow": "loop", "step": "a", "transition": "go", "seconds": 6.0}


@pytest.mark.parametrize(
    ("seconds", "thread"),
    [(0.099, 0.099), (60.0, 0.099), (0.099, 60.0)],
    ids=["fast", "stopped", "odd clock"],
)
def test_a_stopped_or_busy_machine_accuses_nobody(seconds: float, thread: float) -> None:
    machine = Machine()
    assert machine.evaluate(seconds=seconds, thread=thread)
    assert machine.evaluate()


@pytest.mark.expected_logs(TOO_LONG)
def test_smaller_payloads_and_other_subjects_are_evaluated() -> None:
    machine = Machine()
    machine.evaluate(seconds=1.0)
    assert not machine.evaluate(structs.replace(SUBJECT, size=10_000.0))
    assert not machine.evaluate(structs.replace(SUBJECT, size=99.0)), "nearly as large"
    assert machine.evaluate(structs.replace(SUBJECT, size=10.0))
    assert not machine.evaluate(), "a fast evaluation of little proves nothing about much"
    assert machine.evaluate(structs.replace(SUBJECT, key="payload.b > 1"))
    assert machine.evaluate(structs.replace(SUBJECT, kind="payloadSchema"))


@pytest.mark.expected_logs(TOO_LONG)
def test_after_the_time_one_evaluation_decides() -> None:
    machine = Machine()
    machine.evaluate(seconds=1.0)
    machine.clock += OPEN_SECONDS - 1
    assert not machine.evaluate()
    machine.clock += 1
    assert machine.evaluate(seconds=1.0)
    assert not machine.evaluate(), "open again"
    machine.clock += OPEN_SECONDS
    assert machine.evaluate()
    assert machine.evaluate(), "closed"
    assert machine.evaluations == 4


@pytest.mark.expected_logs(TOO_LONG)
def test_one_that_fails_after_a_long_time_counts() -> None:
    machine = Machine()

    def fail() -> None:
        machine.clock += 1.0
        machine.thread += 1.0
        raise RuntimeError("no such key")

    with pytest.raises(RuntimeError, match="no such key"):
        machine.breaker.evaluate(SUBJECT, fail)
    assert not machine.evaluate()


@pytest.mark.expected_logs(TOO_LONG)
def test_memory_is_bounded() -> None:
    machine = Machine()
    for n in range(MAX_OPEN + 1):
        machine.evaluate(structs.replace(SUBJECT, key=f"payload.a > {n}"), seconds=1.0)
    assert machine.evaluate(structs.replace(SUBJECT, key="payload.a > 0")), "the oldest was forgotten"
    assert not machine.evaluate(structs.replace(SUBJECT, key=f"payload.a > {MAX_OPEN}"))


def test_the_garbage_collector_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    times: Iterator[float] = iter([10.0, 17.0, 20.0])
    before = own_thread_time()
    monkeypatch.setattr("app.flow.conditions.evaluation_breaker.time.thread_time", lambda: next(times))
    gc.collect(0)
    monkeypatch.undo()
    assert own_thread_time() - before < -6


def flow_with(**requirements: Any) -> dict[str, Any]:
    raw = flow_dict()
    raw["steps"]["a"]["transitions"]["go"] |= requirements
    raw["steps"]["a"]["initial"] = True
    return raw


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker for which every evaluation is too slow."""
    monkeypatch.setattr(evaluation_breaker, "breaker", EvaluationBreaker(tolerance=0.0))


@pytest.mark.usefixtures("strict")
@pytest.mark.expected_logs(TOO_LONG)
@pytest.mark.expected_logs("guards skipped, evaluation budget exceeded")
async def test_a_guard_that_took_too_long_is_left_out_and_refused(log_events: LogEvents) -> None:
    r = await rig()
    async with r.service as service:
        flows = service.as_trusted()
        await service.update_flow("loop", {"steps": flow_with(guard="state.payload.n >= 0")["steps"]})
        started, _ = await flows.start_flow("ada", "loop", StartCommand(payload={"n": 1}))
        assert "go" in {each.transition for each in started.transitions}, "the first evaluation"
        state = await flows.get_flow_state("ada", "loop")
        assert state is not None
        assert "go" not in {each.transition for each in state.transitions}
        with pytest.raises(GuardRefusedError) as refused:
            await flows.execute_transition("ada", "loop", "go", {})
        assert "may take too long" in refused.value.details["reason"]
        again = await flows.execute_transition("ada", "loop", "again", {})
        assert again.revision == 1, "transitions without it run"
    assert not any(stored.pending for stored in r.states.stored.values()), "all records are delivered"
    assert [event.revision for event in r.published] == [0, 1]
    assert len(log_events.named(TOO_LONG)) == 1


@pytest.mark.usefixtures("strict")
@pytest.mark.expected_logs(TOO_LONG)
async def test_a_payload_of_which_the_comparison_took_too_long_is_refused(log_events: LogEvents) -> None:
    r = await rig()
    async with r.service as service:
        flows = service.as_trusted()
        schema = {"properties": {"n": {"type": "integer"}}}
        raw = flow_with()
        raw["steps"]["a"]["transitions"]["again"]["payloadSchema"] = schema
        await service.update_flow("loop", {"steps": raw["steps"]})
        await flows.start_flow("ada", "loop")
        await flows.execute_transition("ada", "loop", "again", {"n": 1})
        with pytest.raises(InvalidPayloadError) as refused:
            await flows.execute_transition("ada", "loop", "again", {"n": 2})
        assert "may take too long" in refused.value.faults[0].message
        assert (await flows.execute_transition("ada", "loop", "go", {})).revision == 2
    (entry,) = log_events.named(TOO_LONG)
    named = (entry["kind"], entry["flow"], entry["step"], entry["transition"])
    assert named == ("payloadSchema", "loop", "a", "again")
