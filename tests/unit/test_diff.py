"""Differences of two versions, and their effect on running states."""

import copy
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from app.contracts.callers import Caller
from app.contracts.migration import FlowDiff, MemberChange, StepChange, TransitionChange, TransitionPlace
from app.flow import rules, timers
from app.flow.versions.diff import diff
from tests.support.long_form import examples
from tests.support.samples import T0, definition, flow_dict, fresh
from tests.support.versions import edited, renamed, without

OLD = flow_dict()


def between(later: dict[str, Any], earlier: dict[str, Any] = OLD) -> FlowDiff:
    return diff(definition(**earlier_members(earlier)), definition(version=2, **earlier_members(later)))


def earlier_members(flow: dict[str, Any]) -> dict[str, Any]:
    return {name: member for name, member in flow.items() if name != "flow"}


def effects(found: FlowDiff) -> dict[str, str]:
    return {reason.pointer: reason.effect for reason in found.reasons}


def test_the_same_is_safe_and_has_nothing_to_say() -> None:
    found = between(copy.deepcopy(OLD))
    assert (found.verdict, found.reasons, found.members) == ("safe", [], [])
    assert (found.steps.added, found.steps.removed, found.steps.changed) == ([], [], [])
    assert (found.flow, found.from_version, found.to_version) == ("loop", 1, 2)


def test_the_order_of_steps_and_of_members_is_no_difference() -> None:
    earlier = edited(OLD, meta={"x": 1, "y": 2})
    later = edited(OLD, meta={"y": 2, "x": 1}, steps=dict(reversed(copy.deepcopy(OLD["steps"]).items())))
    assert between(later, earlier).reasons == []


def test_a_step_more_is_safe_as_long_as_nothing_leads_there() -> None:
    later = copy.deepcopy(OLD)
    later["steps"]["d"] = {"index": 3, "step": "d", "service": "svc", "transitions": {}}
    found = between(later)
    assert (found.verdict, found.steps.added, effects(found)) == ("safe", ["d"], {"/steps/d": "safe"})
    later["steps"]["b"]["transitions"]["on"] = {"transition": "on", "step": "d"}
    found = between(later)
    assert found.verdict == "compatible"
    assert found.transitions.added == [TransitionPlace("b", "on", "d")]
    assert effects(found) == {"/steps/b/transitions/on": "compatible", "/steps/d": "safe"}


TIMEOUT = {"after": "PT1H", "transition": "go"}


@pytest.mark.parametrize(
    ("later", "pointer", "effect"),
    [
        (edited(OLD, title="Loop"), "/title", "safe"),
        (edited(OLD, description="A loop"), "/description", "safe"),
        (edited(OLD, meta={"a": 1}), "/meta", "safe"),
        (edited(OLD, initialStep="b"), "/initialStep", "safe"),
        (edited(OLD, prefabs={"a": "x"}), "/prefabs", "safe"),
        (edited(OLD, ttl="P30D"), "/ttl", "compatible"),
        (edited(OLD, roles=["clerk"]), "/roles", "compatible"),
        (edited(OLD, resettable=False), "/resettable", "compatible"),
        (edited(OLD, clearable=["clerk"]), "/clearable", "compatible"),
        (edited(OLD, instances="many"), "/instances", "compatible"),
        (edited(OLD, participants={"approver": {}}), "/participants/approver", "compatible"),
        (edited(OLD, participants={}), "/participants", "safe"),
        (edited(OLD, sensitive={"/a": ["x"]}), "/sensitive/~1a", "compatible"),
        (edited(OLD, sensitive={}), "/sensitive", "safe"),
        (edited(OLD, visible={"x": ["/a"]}), "/visible", "compatible"),
        (edited(OLD, searchable=["/a"]), "/searchable", "compatible"),
        (edited(OLD, config={"defaultFlow": "x"}), "/config", "safe"),
        (edited(OLD, config={"queryParam": "x"}), "/config/queryParam", "compatible"),
        (edited(OLD, a__title="A"), "/steps/a/title", "safe"),
        (edited(OLD, a__meta={"x": 1}), "/steps/a/meta", "safe"),
        (edited(OLD, a__initial=True), "/steps/a/initial", "safe"),
        (edited(OLD, a__index=7), "/steps/a/index", "compatible"),
        (edited(OLD, a__timeout=TIMEOUT), "/steps/a/timeout", "compatible"),
        (edited(OLD, a__payloadMap={"x": 0}), "/steps/a/payloadMap", "compatible"),
        (edited(OLD, a__service="other"), "/steps/a/service", "compatible"),
        (edited(OLD, a__module="m"), "/steps/a/module", "compatible"),
        (edited(OLD, a__path="/p"), "/steps/a/path", "compatible"),
        (edited(OLD, a__go__title="Go"), "/steps/a/transitions/go/title", "safe"),
        (edited(OLD, a__go__step="c"), "/steps/a/transitions/go/step", "compatible"),
        (edited(OLD, a__go__explicit=True), "/steps/a/transitions/go/explicit", "compatible"),
        (edited(OLD, a__go__reversible=True), "/steps/a/transitions/go/reversible", "compatible"),
        (edited(OLD, a__go__guard="true"), "/steps/a/transitions/go/guard", "compatible"),
        (edited(OLD, a__go__roles=["x"]), "/steps/a/transitions/go/roles", "compatible"),
        (edited(OLD, a__go__payloadSchema={}), "/steps/a/transitions/go/payloadSchema", "compatible"),
        (edited(OLD, participants={"boss": {}}, a__go__assign=[{"role": "boss", "from": "payload.boss"}]),
         "/steps/a/transitions/go/assign", "compatible"),
        (edited(OLD, a__go__notBy=["done"]), "/steps/a/transitions/go/notBy", "compatible"),
        (edited(OLD, participants={"boss": {}}, a__go__approvals={"of": "boss", "count": 2},
                a__go__roles=["boss"]), "/steps/a/transitions/go/approvals", "compatible"),
        (edited(OLD, a__go__conflict={"merge": ["/n"]}), "/steps/a/transitions/go/conflict", "compatible"),
        (without(OLD, "b", "c"), "/steps/b", "breaking"),
        (without(OLD, "c", "b"), "/steps/c", "breaking"),
        (renamed(OLD, "b", "b2"), "/steps/b", "breaking"),
    ],
)  # fmt: skip
def test_what_each_difference_means(later: dict[str, Any], pointer: str, effect: str) -> None:
    found = between(later)
    assert effects(found)[pointer] == effect
    assert found.verdict == effect
    assert found.reasons[0].effect == effect, "the worst first"


def test_many_instances_leave_the_present_states_where_they_are() -> None:
    many = edited(OLD, instances="many")
    assert "stays reachable without `entityId`" in between(many).reasons[0].message
    assert between(many).members == [MemberChange("instances", after="many")]
    assert "stay reachable with `entityId`" in between(OLD, many).reasons[0].message


ROLES = edited(OLD, participants={"clerk": {"group": "finance", "claim": "PT15M"}, "boss": {"title": "Boss"}})


@pytest.mark.parametrize(
    ("participants", "expected"),
    [
        ({"clerk": {"group": "finance", "claim": "PT900S"}, "boss": {"title": "Chief"}},
         {"/participants/boss/title": "safe"}),
        ({"clerk": {"group": "it", "claim": "PT15M"}, "boss": {"title": "Boss"}},
         {"/participants/clerk/group": "compatible"}),
        ({"clerk": {"group": "finance", "claim": "PT1H", "takeOver": ["boss"]},
          "boss": {"title": "Boss", "assignable": True}},
         {"/participants/clerk/claim": "compatible", "/participants/clerk/takeOver": "compatible",
          "/participants/boss/assignable": "compatible"}),
        ({"clerk": {"group": "finance", "claim": "PT15M"}}, {"/participants/boss": "compatible"}),
        (None, {"/participants/clerk": "compatible", "/participants/boss": "compatible"}),
    ],
)  # fmt: skip
def test_each_role_has_its_effect(participants: dict[str, Any], expected: dict[str, str]) -> None:
    found = between(edited(ROLES, participants=participants), ROLES)
    assert effects(found) == expected
    assert [change.member for change in found.members] == ["participants"]


def test_a_removed_role_is_lost_by_those_who_have_it() -> None:
    (reason,) = between(edited(ROLES, participants={"clerk": ROLES["participants"]["clerk"]}), ROLES).reasons
    assert (reason.pointer, reason.effect) == ("/participants/boss", "compatible")
    assert "can no longer see the state" in reason.message


def test_who_ran_a_transition_before_is_known_if_a_rule_named_it() -> None:
    def message(old: list[str] | None, new: list[str] | None) -> str:
        earlier, later = edited(OLD, b__back__notBy=["jump"]), edited(OLD, b__back__notBy=["jump"])
        if old is not None:
            earlier = edited(earlier, b__done__notBy=old)
        if new is not None:
            later = edited(later, b__done__notBy=new)
        (reason,) = between(later, earlier).reasons
        assert (reason.pointer, reason.effect) == ("/steps/b/transitions/done/notBy", "compatible")
        return reason.message

    assert "but nobody for 'go' before a state is moved" in message(None, ["jump", "go"])
    assert message(None, ["jump"]) == "Other people are excluded from the transition"
    assert "but nobody for 'again'" in message(["go"], ["again"])
    assert message(["go"], None) == "Nobody is excluded from the transition"


def test_other_numbers_of_votes() -> None:
    two = edited(ROLES, a__go__roles=["boss"], a__go__approvals={"of": "boss", "count": 2})
    three = edited(two, a__go__approvals={"of": "boss", "count": 3})
    none = edited(two, a__go__approvals=None)
    assert "Votes of 2 different people with the role 'boss'" in between(two, none).reasons[0].message
    assert "are dropped" in between(three, two).reasons[0].message
    assert "votes of running states no longer count" in between(none, two).reasons[0].message


def test_members_have_their_values_before_and_after() -> None:
    found = between(edited(OLD, title="Loop", a__index=7, a__timeout=TIMEOUT, a__go__step="c"))
    assert found.members == [MemberChange("title", after="Loop")]
    timeout = MemberChange("timeout", after={"after": "PT3600S", "transition": "go"})
    assert found.steps.changed == [StepChange("a", [MemberChange("index", 0, 7), timeout])]
    assert found.transitions.changed == [TransitionChange("a", "go", [MemberChange("step", "b", "c")])]
    back = between(OLD, edited(OLD, title="Loop"))
    assert back.members == [MemberChange("title", before="Loop")]
    assert msgspec.json.encode(back.members) == b'[{"member":"title","before":"Loop"}]'


def test_a_changed_index_reports_the_meaning_of_outstanding_tokens() -> None:
    def message(later: dict[str, Any]) -> str:
        reasons = between(later).reasons
        return next(reason.message for reason in reasons if reason.pointer == "/steps/a/index")

    assert "with 0 now means no step; never renumber" in message(edited(OLD, a__index=7))
    assert "with 0 now means 'b'" in message(edited(OLD, a__index=1, b__index=0))


def test_a_removed_step_reports_the_step_with_its_index() -> None:
    renaming = between(renamed(OLD, "b", "b2")).reasons[0]
    assert "its index 1 now belongs to 'b2'" in renaming.message
    assert "index" not in between(without(OLD, "b", "c")).reasons[0].message


def test_a_removed_transition_is_reported() -> None:
    later = copy.deepcopy(OLD)
    del later["steps"]["a"]["transitions"]["jump"]
    found = between(later)
    assert (found.verdict, effects(found)) == ("compatible", {"/steps/a/transitions/jump": "compatible"})
    assert found.transitions.removed == [TransitionPlace("a", "jump", "c")]


def test_a_reference_is_what_it_stands_for() -> None:
    earlier = edited(OLD, config={"services": {"s": "svc"}}, a__service="$s")
    assert between(earlier).verdict == "safe", "written otherwise, it stands for the same"
    assert effects(between(earlier))["/steps/a/service"] == "safe"
    later = edited(earlier, config={"services": {"s": "other"}})
    found = between(later, earlier)
    assert effects(found) == {"/steps/a/service": "compatible", "/config": "safe"}
    assert found.steps.changed == [StepChange("a", [MemberChange("service", "svc", "other")])]


def test_becoming_an_end_and_stopping_to_be_one() -> None:
    ended = copy.deepcopy(OLD)
    ended["steps"]["b"]["transitions"] = {}
    found = between(ended)
    assert found.verdict == "compatible"
    assert [place.transition for place in found.transitions.removed] == ["back", "done"]
    assert any("are completed when they are moved" in reason.message for reason in found.reasons)
    assert any("no longer ends the flow" in reason.message for reason in between(OLD, ended).reasons)


def test_the_order_of_transitions_counts() -> None:
    later = copy.deepcopy(OLD)
    later["steps"]["a"]["transitions"] = dict(reversed(later["steps"]["a"]["transitions"].items()))
    found = between(later)
    assert effects(found) == {"/steps/a/transitions": "compatible"}
    order = MemberChange("transitions", ["jump", "again", "go"], ["go", "again", "jump"])
    assert found.steps.changed == [StepChange("a", [order])]


def test_a_timeout_that_only_runs_another_transition_goes_on() -> None:
    def message(old: Any, new: Any) -> str:
        return between(edited(OLD, a__timeout=new), edited(OLD, a__timeout=old)).reasons[0].message

    assert "the time that a state has waited counts" in message(TIMEOUT, {**TIMEOUT, "transition": "again"})
    assert "the whole time" in message(TIMEOUT, {**TIMEOUT, "after": "PT2H"})
    assert "the whole time" in message(TIMEOUT, {**TIMEOUT, "resume": "restart"})


def test_as_json_it_is_camel_case() -> None:
    plain = msgspec.json.decode(msgspec.json.encode(between(renamed(OLD, "b", "b2"))))
    assert (plain["from"], plain["to"], plain["verdict"]) == (1, 2, "breaking")
    assert plain["steps"] == {"added": ["b2"], "removed": ["b"], "changed": []}
    changed = [(change["step"], change["transition"]) for change in plain["transitions"]["changed"]]
    assert changed == [("a", "go")]


def _mutated(flow: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The flow with one thing changed at random, sound as before."""
    later = copy.deepcopy(flow)
    step = chance.choice(list(later["steps"].values()))
    name = step["step"]
    ways = list(step["transitions"].values())
    kind = chance.choice(["text", "index", "add", "drop", "way", "retarget", "flag", "swap", "time", "roles"])
    free = max(s["index"] for s in later["steps"].values()) + 1
    if kind == "text":
        chance.choice([later, step, *ways])["title"] = str(free)
    elif kind == "index":
        step["index"] = free
    elif kind == "add":
        later["steps"][f"n{free}"] = {"index": free, "step": f"n{free}", "service": "svc", "transitions": {}}
    elif kind == "drop" and len(later["steps"]) > 1 and name != later["initialStep"]:
        return without(later, name, later["initialStep"])
    elif kind == "way":
        step["transitions"][f"w{free}"] = {"transition": f"w{free}", "step": name}
    elif kind == "retarget" and ways:
        chance.choice(ways)["step"] = name
    elif kind == "flag" and ways:
        way = chance.choice(ways)
        way["explicit"] = not way.get("explicit", False)
    elif kind == "swap":
        step["transitions"] = dict(reversed(step["transitions"].items()))
    elif kind == "time" and ways:
        step["timeout"] = {"after": f"PT{free}S", "transition": ways[0]["transition"]}
    elif kind == "roles" and ways:
        chance.choice(ways)["roles"] = ["clerk"]
    return later


@examples(200)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_the_verdict_holds_for_every_state(seed: int, changes: int) -> None:
    """Safe: a state may do the same as before, at the same times. Compatible: each has its step."""
    chance = random.Random(seed)
    later = OLD
    for _ in range(changes):
        later = _mutated(later, chance)
    old = definition(**earlier_members(OLD))
    new = definition(version=2, **earlier_members(later))
    found = diff(old, new)
    assert (found.verdict == "breaking") == bool(set(old.flow.steps) - set(new.flow.steps))
    if found.verdict != "safe":
        return
    for step in old.flow.steps.values():
        state = structs.replace(fresh(step=step.step), status="active" if step.transitions else "completed")
        moved = structs.replace(state, version=2)
        seen = [
            rules.with_transitions(each, where, Caller("ada"), T0).transitions
            for each, where in ((old, state), (new, moved))
        ]
        assert seen[0] == seen[1]
        assert timers.placement_changes(step, state, T0) == timers.placement_changes(
            new.flow.steps[step.step], state, T0
        )


@pytest.mark.parametrize(
    ("before", "after", "pointer", "says"),
    [
        (
            {"sensitive": {"/a": []}},
            {"sensitive": {}},
            "/sensitive/~1a",
            "see the field, which was sensitive",
        ),
        ({"sensitive": {"/a": []}}, {"sensitive": {"/a": ["x"]}}, "/sensitive/~1a", "Readers with 'x' see"),
        ({"sensitive": {"/a": ["x"]}}, {"sensitive": {"/a": []}}, "/sensitive/~1a", "'x' do not see"),
        (
            {"sensitive": {"/a": ["x", "y"]}},
            {"sensitive": {"/a": ["y", "x"]}},
            "/sensitive/~1a",
            "The same roles",
        ),
        ({"visible": {"x": ["/a"]}}, {}, "/visible", "see every field"),
        ({"visible": {"x": ["/a"]}}, {"visible": {"x": ["/b"]}}, "/visible/x", "other fields"),
        ({"visible": {"x": ["/a"]}}, {"visible": {}}, "/visible/x", "other fields"),
    ],
)
def test_fields_that_readers_see_or_do_not_see_any_more_are_named(
    before: dict[str, Any], after: dict[str, Any], pointer: str, says: str
) -> None:
    found = between(flow_dict(**after), flow_dict(**before))
    (reason,) = found.reasons
    assert reason.pointer == pointer
    assert says in reason.message
