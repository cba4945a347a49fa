"""Mapping of steps, migration of states, proposals and rehearsals."""

import copy
import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, structs

from app.contracts.commands import PauseCommand, ResetCommand, StartCommand, TransitionCommand
from app.contracts.definition import FlowDefinition
from app.contracts.errors import FlowStateCorruptionError, InvalidRequestError
from app.contracts.migration import Proposal, Sample
from app.contracts.people import Claim, Participant, TransitionBy
from app.contracts.ports.states import RunningStates
from app.contracts.state import FlowState, StateId
from app.flow import rules
from app.flow.position import definition_mismatch
from app.flow.versions.mapping import StepMapping
from app.flow.versions.proposals import propose
from app.flow.versions.rehearsal import rehearse
from tests.support.long_form import examples
from tests.support.samples import T0, definition, flow_dict, fresh
from tests.support.versions import edited, renamed, without

OLD = flow_dict()
HOUR = timedelta(hours=1)
LATER = T0 + timedelta(minutes=10)
HOLD = PauseCommand(reason="audit")
TIMEOUT = {"after": "PT1H", "transition": "go"}
MAP = {"b": "b2"}


def version(flow: dict[str, Any], number: int = 1) -> FlowDefinition:
    return definition(version=number, **{name: flow[name] for name in flow if name != "flow"})


def mapping(later: dict[str, Any], given: Any = None, earlier: dict[str, Any] = OLD) -> StepMapping:
    return StepMapping(version(earlier), version(later, 2), given)


def at(flow: dict[str, Any], step: str, **members: Any) -> FlowState:
    """A state that entered a step at T0."""
    state = rules.start(version(flow), StateId("loop", "ada"), "e1", StartCommand(step=step), T0)
    return structs.replace(state, **members)


def test_steps_map_by_name_unless_the_mapping_names_another() -> None:
    by_name = mapping(renamed(OLD, "b", "b2"))
    assert [by_name.target(step) for step in OLD["steps"]] == ["a", None, "c"]
    steps = mapping(renamed(OLD, "b", "b2"), {"b": "b2", "a": "c", "c": None})
    assert [steps.target(step) for step in OLD["steps"]] == ["c", "b2", None]
    assert [steps.leaves(step) for step in OLD["steps"]] == [False, False, True]
    assert steps.faults() == []


def test_every_fault_of_a_mapping_is_named() -> None:
    faults = mapping(renamed(OLD, "b", "b2"), {"x/y": "z", "b": "b", "a": "a"}).faults()
    assert [(fault.pointer, fault.message) for fault in faults] == [
        ("/x~1y", "Version 1 has no step 'x/y'; it has a, b, c"),
        ("/x~1y", "Version 2 has no step 'z'; it has a, b2, c"),
        ("/b", "Version 2 has no step 'b'; it has a, b2, c"),
    ]


def test_what_was_entered_stays_and_the_position_goes_on() -> None:
    state = at(OLD, "b", payload={"x": 1}, message="hi", service="web", entity_id=None, ok=False, revision=7)
    after = mapping(renamed(OLD, "b", "b2"), MAP).move(state, LATER)
    changed = {"step": "b2", "version": 2, "revision": 8, "updated_at": LATER}
    assert after == structs.replace(state, **changed)


VOTE = {"of": "boss", "count": 2}
PEOPLE = edited(
    OLD,
    participants={"boss": {"claim": "PT900S"}, "clerk": {}},
    b__done__roles=["boss"],
    b__done__approvals=VOTE,
)
AS_BOSS = Participant("boss", "bea")
CLAIM = Claim("boss", "bea", T0 + HOUR)
CAST = TransitionBy("done", "bea")


@pytest.mark.parametrize(
    ("later", "given", "claims", "votes"),
    [
        (PEOPLE, None, (CLAIM,), (CAST,)),
        (renamed(PEOPLE, "b", "b2"), MAP, (CLAIM,), (CAST,)),
        (PEOPLE, {"b": "a"}, UNSET, UNSET),
        (edited(PEOPLE, b__done__approvals={**VOTE, "count": 3}), None, (CLAIM,), UNSET),
        (edited(PEOPLE, participants={"boss": {}}), None, UNSET, (CAST,)),
    ],
)
def test_claims_and_votes_stay_where_their_rules_do(
    later: dict[str, Any], given: Any, claims: Any, votes: Any
) -> None:
    ran = TransitionBy("go", "ada")
    state = at(PEOPLE, "b", participants=(AS_BOSS,), claims=(CLAIM,), votes=(CAST,), runs=(ran,))
    after = mapping(later, given, PEOPLE).move(state, LATER)
    assert (after.participants, after.claims, after.votes) == ((AS_BOSS,), claims, votes)
    assert after.awaits == (UNSET if after.step == "a" else ("boss",))
    assert after.runs == (ran,)


def test_votes_of_a_state_that_leaves_its_step_are_runs() -> None:
    later = edited(PEOPLE, a__go__notBy=["done"])
    state = at(PEOPLE, "b", participants=(AS_BOSS,), votes=(CAST,))
    assert mapping(later, {"b": "a"}, PEOPLE).move(state, LATER).runs == (CAST,)
    assert mapping(later, None, PEOPLE).move(state, LATER).runs is UNSET


def test_people_whose_role_was_removed_leave_the_state() -> None:
    group = Participant("clerk", group="finance")
    state = at(PEOPLE, "b", participants=(AS_BOSS, group), claims=(CLAIM,), awaits=("boss",))
    for roles, staying, awaited in (
        (["boss", "clerk"], (AS_BOSS, group), ("boss",)),
        (["clerk"], (group,), UNSET),
        ([], UNSET, UNSET),
    ):
        later = edited(PEOPLE, participants={role: {} for role in roles})
        after = mapping(later, None, PEOPLE).move(state, LATER)
        assert (after.participants, after.awaits) == (staying, awaited)
    paused = structs.replace(state, status="paused", awaits=UNSET)
    assert mapping(PEOPLE, None, PEOPLE).move(paused, LATER).awaits is UNSET


def test_previous_is_mapped_and_dropped_when_it_goes_nowhere() -> None:
    later = renamed(OLD, "a", "a2")
    state = at(OLD, "b", previous="a")
    assert mapping(later, {"a": "a2"}).move(state, LATER).previous == "a2"
    assert mapping(later).move(state, LATER).previous is UNSET
    assert mapping(later, {"a": None}).move(state, LATER).previous is UNSET
    assert mapping(later).move(at(OLD, "b", previous="c"), LATER).previous == "c"


def test_a_state_at_what_is_an_end_now_is_completed_and_a_held_one_when_it_is_resumed() -> None:
    ended = copy.deepcopy(OLD)
    ended["steps"]["b"]["transitions"] = {}
    later = mapping(ended)
    assert later.move(at(OLD, "b"), LATER).status == "completed"
    held = later.move(rules.pause(version(OLD), at(OLD, "b"), HOLD, T0), LATER)
    assert (held.status, held.pause_reason) == ("paused", "audit")
    assert rules.resume(later.new, held, LATER).status == "completed"


def test_what_does_not_fit_its_own_version_is_not_moved() -> None:
    for damage in ({"step": "nowhere"}, {"status": "completed"}, {"previous": "nowhere"}):
        with pytest.raises(FlowStateCorruptionError):
            mapping(OLD).move(structs.replace(fresh(), **damage), LATER)


TIMED = edited(OLD, a__timeout=TIMEOUT)
ENTERED = T0 + HOUR
ANEW = LATER + HOUR


@pytest.mark.parametrize(
    ("later", "to", "due"),
    [
        (TIMED, "a", ENTERED),
        (edited(TIMED, a__timeout={**TIMEOUT, "transition": "again"}), "a", ENTERED),
        (edited(TIMED, a__title="A"), "a", ENTERED),
        (renamed(TIMED, "a", "a2"), "a2", ENTERED),
        (edited(TIMED, a__timeout={**TIMEOUT, "resume": "restart"}), "a", ANEW),
        (edited(TIMED, a__timeout={**TIMEOUT, "after": "PT2H"}), "a", LATER + 2 * HOUR),
        (edited(TIMED, a__timeout=None), "a", UNSET),
        (edited(TIMED, b__timeout={**TIMEOUT, "transition": "done"}), "b", ANEW),
        (TIMED, "b", UNSET),
    ],
)
def test_the_timeout_of_the_same_step_goes_on_and_any_other_counts_from_now(
    later: dict[str, Any], to: str, due: Any
) -> None:
    after = mapping(later, {"a": to}, TIMED).move(at(TIMED, "a"), LATER)
    assert (after.timeout_at, after.timeout_left_ms) == (due, UNSET)


def test_a_step_that_gets_a_timeout_waits_from_now() -> None:
    assert mapping(TIMED).move(at(OLD, "a"), LATER).timeout_at == ANEW


@pytest.mark.parametrize("resume", ["absolute", "remaining", "restart"])
def test_what_a_held_state_waits_goes_on_as_it_was_held(resume: str) -> None:
    timed = edited(TIMED, a__timeout={**TIMEOUT, "resume": resume})
    held = rules.pause(version(timed), at(timed, "a"), HOLD, T0 + timedelta(minutes=15))
    after = mapping(timed, earlier=timed).move(held, LATER + HOUR)
    assert (after.timeout_at, after.timeout_left_ms) == (held.timeout_at, held.timeout_left_ms)
    elsewhere = edited(timed, b__timeout={**TIMEOUT, "transition": "done"})
    moved = mapping(elsewhere, {"a": "b"}, timed).move(held, LATER)
    assert (moved.status, moved.timeout_left_ms) == ("paused", 3_600_000), "the whole time, once resumed"


def proposed(later: dict[str, Any], earlier: dict[str, Any] = OLD) -> list[Proposal]:
    known = {step: step for step in earlier["steps"] if step in later["steps"]}
    removed = [step for step in earlier["steps"] if step not in known]
    return propose(version(earlier).flow, version(later).flow, known, removed)


def test_a_renamed_step_is_recognised() -> None:
    (found,) = proposed(renamed(OLD, "b", "review"))
    assert (found.step, found.to) == ("b", "review")
    assert found.confidence >= 0.85
    for reason in ("the same index", "the same service", "transitions out", "transitions in"):
        assert reason in found.reason


def test_also_when_it_was_renumbered_by_its_transitions() -> None:
    (found,) = proposed(edited(renamed(OLD, "b", "b_2"), b_2__index=9))
    assert found.to == "b_2"
    assert "index" not in found.reason
    assert found.confidence < 0.85


def test_two_that_were_renamed_are_reported_apart() -> None:
    later = renamed(renamed(OLD, "b", "second"), "c", "third")
    assert {found.step: found.to for found in proposed(later)} == {"b": "second", "c": "third"}


def test_a_step_that_was_passed_over_goes_on_where_what_led_to_it_leads_now() -> None:
    (found,) = proposed(without(OLD, "b", "c"))
    assert (found.step, found.to, found.confidence) == ("b", "c", 0.5)


def test_also_when_what_led_to_it_was_renamed() -> None:
    earlier = edited(OLD, b__done__step="b")
    earlier["steps"]["b"]["transitions"]["on"] = {"transition": "on", "step": "x"}
    back = {"transition": "on", "step": "a"}
    earlier["steps"]["x"] = {"index": 5, "step": "x", "service": "svc", "transitions": {"on": back}}
    later = without(renamed(earlier, "b", "b2"), "x", "c")
    assert {found.step: found.to for found in proposed(later, earlier)} == {"b": "b2", "x": "c"}


def test_nothing_is_proposed_that_nothing_speaks_for() -> None:
    later = without(OLD, "b", "c")
    later["steps"]["a"]["transitions"].pop("go")
    later["steps"]["zzz"] = {"index": 9, "step": "zzz", "service": "far", "transitions": {}}
    assert proposed(later) == []


def with_step(flow: dict[str, Any], name: str, index: int) -> dict[str, Any]:
    """The flow with a step like b more, to which nothing leads."""
    later = copy.deepcopy(flow)
    later["steps"][name] = {**copy.deepcopy(flow["steps"]["b"]), "step": name, "index": index}
    return later


UNREACHED = copy.deepcopy(OLD)
del UNREACHED["steps"]["a"]["transitions"]["go"]


def test_of_two_that_are_equally_likely_none_is_proposed() -> None:
    one = edited(renamed(UNREACHED, "b", "x1"), x1__index=7)
    assert [found.to for found in proposed(one, UNREACHED)] == ["x1"]
    two = copy.deepcopy(one)
    two["steps"]["x2"] = {**copy.deepcopy(one["steps"]["x1"]), "step": "x2", "index": 8}
    assert proposed(two, UNREACHED) == []


def test_a_step_that_was_there_before_is_no_other_step_by_a_new_name() -> None:
    earlier = with_step(UNREACHED, "b1", 7)
    assert proposed(without(earlier, "b1", "a"), earlier) == []


def test_where_what_led_to_it_leads_to_two_none_is_proposed() -> None:
    earlier = copy.deepcopy(OLD)
    earlier["steps"]["a"]["transitions"]["by"] = {"transition": "by", "step": "b"}
    later = without(earlier, "b", "c")
    assert [found.to for found in proposed(later, earlier)] == ["c"]
    assert proposed(edited(later, a__by__step="a"), earlier) == []


def group(step: str, count: int, status: Any = "active", previous: Any = UNSET) -> RunningStates:
    first = tuple(StateId("loop", f"{step}{n}") for n in range(min(count, 10)))
    return RunningStates(step, status, previous, count, first)


def test_a_rehearsal_reports_the_outcome_for_every_step() -> None:
    earlier = copy.deepcopy(OLD)
    for index, name in ((3, "lost"), (4, "left"), (5, "empty")):
        go = {"transition": "go", "step": "a"}
        step = {"index": index, "step": name, "service": "far", "transitions": {"go": go}}
        earlier["steps"][name] = step
    later = renamed(OLD, "b", "b2")
    found = rehearse(
        mapping(later, {"left": None}, earlier),
        [
            group("a", 3),
            group("a", 2, "paused", "b"),
            group("b", 12),
            group("lost", 1),
            group("left", 4),
            group("odd", 1),
            group("a", 1, previous="odd"),
        ],
    )
    fates = {s.step: (s.fit.count, s.need_mapping.count, s.stuck.count, s.left.count) for s in found.steps}
    assert fates == {
        "a": (5, 0, 1, 0),
        "b": (0, 12, 0, 0),
        "c": (0, 0, 0, 0),
        "lost": (0, 0, 1, 0),
        "left": (0, 0, 0, 4),
        "empty": (0, 0, 0, 0),
        "odd": (0, 0, 1, 0),
    }
    by_name = {step.step: step for step in found.steps}
    assert by_name["b"].need_mapping == Sample(12, [f"b{n}" for n in range(10)])
    assert by_name["a"].fit == Sample(5, ["a0", "a0", "a1", "a1", "a2"])
    assert by_name["a"].to == "a"
    assert "recover" in by_name["a"].advice
    assert "recover" in by_name["odd"].advice
    assert by_name["odd"].to is by_name["b"].to is None
    assert "maybe 'b2'" in by_name["b"].advice
    assert [(p.step, p.to) for p in found.proposals] == [("b", "b2")]
    assert [fault.pointer for fault in found.unmapped] == ["/mapping/b", "/mapping/lost"]
    assert "or to null" in found.unmapped[1].message


def test_of_those_who_stand_alike_no_more_than_ten_are_named() -> None:
    found = rehearse(mapping(OLD), [group("a", 12), group("a", 7, "paused")])
    assert found.steps[0].fit.count == 19
    assert len(found.steps[0].fit.user_ids) == 10


def test_states_of_many_are_named_with_their_entities() -> None:
    many = [StateId("loop", "bob", "o2"), StateId("loop", "ada", "o3"), StateId("loop", "bob", "o1")]
    groups = [RunningStates("a", "active", UNSET, 3, tuple(many)), group("a", 1, "paused")]
    assert rehearse(mapping(OLD), groups).steps[0].fit == Sample(
        4, ["a0", "ada", "bob", "bob"], ["", "o3", "o1", "o2"]
    )


def test_only_what_runs_on_the_old_version_is_moved() -> None:
    steps = mapping(OLD, {"b": None})
    moved = [
        at(OLD, "a"),
        at(OLD, "a", status="paused"),
        at(OLD, "a", version=2),
        at(OLD, "b"),
        at(OLD, "c"),
        at(OLD, "a", status="cleared"),
    ]
    assert [steps.moves(state) for state in moved] == [True, True, False, False, False, False]


def test_a_rehearsal_warns_of_states_that_will_be_completed() -> None:
    ended = copy.deepcopy(OLD)
    ended["steps"]["b"]["transitions"] = {}
    advice = {step.step: step.advice for step in rehearse(mapping(ended), []).steps}
    assert advice == {"a": "", "b": "States there are completed, as 'b' ends the flow", "c": ""}
    mapped = {step.step: step.advice for step in rehearse(mapping(OLD, {"a": "c"}), []).steps}
    assert mapped["a"] == "States there are completed, as 'c' ends the flow"


@examples(150)
@given(st.integers(0, 2**32))
def test_what_is_moved_fits_the_new_version_and_may_go_on(seed: int) -> None:
    """Any walk, holds included, then any version and mapping: the state fits, as the rehearsal steps."""
    chance = random.Random(seed)
    old = version(TIMED)
    state = rules.reset(old, fresh(), ResetCommand(), T0)
    for _ in range(chance.randrange(6)):
        ways = list(old.flow.steps[state.step].transitions)
        if state.status == "active" and ways:
            state = rules.transition(old, state, chance.choice(ways), TransitionCommand(), LATER)
    if state.status == "active" and chance.random() < 0.4:
        state = rules.pause(old, state, HOLD, LATER)
    later = chance.choice(
        [TIMED, renamed(TIMED, "b", "b2"), without(TIMED, "b", "a"), edited(TIMED, a__timeout=None)]
    )
    names = [*later["steps"], None]
    chosen = {step: chance.choice(names) for step in TIMED["steps"] if chance.random() < 0.4}
    steps = StepMapping(old, version(later, 2), chosen)
    assert steps.faults() == []
    if state.status == "completed":
        assert not steps.moves(state)
        return
    assert state.status in ("active", "paused")
    running = RunningStates(state.step, state.status, state.previous, 1, (state.id,))
    (reported,) = [s for s in rehearse(steps, [running]).steps if s.step == state.step]
    to = steps.target(state.step)
    assert bool(reported.fit.count) == (to is not None) == (reported.to is not None)
    assert bool(reported.left.count) == steps.leaves(state.step) == (not steps.moves(state))
    if to is None:
        with pytest.raises(InvalidRequestError):
            steps.move(state, LATER)
        return
    after = steps.move(state, LATER + HOUR)
    assert definition_mismatch(steps.new, after) is None
    assert after.status == ("paused" if state.status == "paused" else after.status)
    assert (after.payload, after.revision, after.version) == (state.payload, state.revision + 1, 2)
    timeout = steps.new.flow.steps[to].timeout
    waits = after.timeout_at is not UNSET or after.timeout_left_ms is not UNSET
    assert waits == (timeout is not None), "as its step declares"
