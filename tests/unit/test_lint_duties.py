"""The check for transitions that nobody can ever run, as its rules exclude everybody who could."""

from collections import deque
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contracts.definition import Finding
from app.flow.lint.duties import MAX_RULES
from app.flow.lint.graph import descendants, reached
from app.flow.validation import check_flow
from tests.support.long_form import examples
from tests.support.processor_time import bounded

Raw = dict[str, Any]


def flow_of(steps: dict[str, dict[str, Raw]], people: dict[str, int]) -> Raw:
    """A flow of transitions by their steps and names; ``people`` are those who can have each role.

    A step before the others assigns the roles.
    """
    assign = [{"role": role, "from": f"payload.{role}"} for role in people]
    properties = {role: {"type": "array", "maxItems": number} for role, number in people.items()}
    schema = {"required": list(people), "properties": properties}
    name = {"transition": "name", "step": next(iter(steps)), "assign": assign, "payloadSchema": schema}
    if not people:
        name = {"transition": "name", "step": next(iter(steps))}
    start = {"transitions": {"name": name}}
    whole = {
        "zero": start,
        **{
            step: {"transitions": {key: {"transition": key, **each} for key, each in transitions.items()}}
            for step, transitions in steps.items()
        },
    }
    return {
        "flow": "duties",
        "initialStep": "zero",
        "resettable": False,
        "clearable": False,
        "participants": {role: {} for role in people},
        "steps": {
            step: {"index": index, "step": step, "service": "s", **members}
            for index, (step, members) in enumerate(whole.items())
        },
    }


def closed(raw: Raw) -> list[Finding]:
    """The findings about transitions that nobody can run."""
    assert [finding for finding in check_flow(raw) if finding.severity == "error"] == []
    return [finding for finding in check_flow(raw) if "always excludes" in finding.message]


def pointers(raw: Raw) -> list[str]:
    return [finding.pointer for finding in closed(raw)]


APPROVE = "/steps/b/transitions/approve/notBy"


def submitted(people: dict[str, int], submit: Raw, approve: Raw, **others: Raw) -> Raw:
    """A submission that is approved, by transitions with these members."""
    approved = {"approve": {"step": "c", "notBy": ["submit"], **approve}, **others}
    return flow_of({"a": {"submit": {"step": "b", **submit}}, "b": approved, "c": {}}, people)


def test_the_owner_alone_cannot_approve_what_they_submitted() -> None:
    (finding,) = closed(submitted({}, {}, {}))
    assert (finding.pointer, finding.severity) == (APPROVE, "warning")
    assert finding.message == (
        "Only the owner of a state may run this transition, whom the rule always excludes; "
        "no state can reach the end 'c'"
    )
    assert "list roles of `participants`" in finding.advice
    raw = submitted({}, {}, {"guard": "user.id != state.userId"})
    assert closed(raw) == [], "others than the owner may be meant"
    assert closed(submitted({}, {"roles": ["clerk"]}, {"roles": ["clerk"]})) == [], "services may have it"
    assert closed(submitted({"boss": 1}, {}, {"roles": ["boss"]})) == []


def test_one_person_cannot_do_two_duties() -> None:
    (finding,) = closed(submitted({"boss": 1}, {"roles": ["boss"]}, {"roles": ["boss"]}))
    assert (
        "at most 1 person can have the role 'boss', and one other must run this transition" in finding.message
    )
    assert closed(submitted({"boss": 2}, {"roles": ["boss"]}, {"roles": ["boss"]})) == []
    both = submitted({"boss": 1, "clerk": 1}, {"roles": ["boss", "clerk"]}, {"roles": ["boss", "clerk"]})
    assert closed(both) == []
    other = submitted({"boss": 1, "clerk": 1}, {"roles": ["boss", "clerk"]}, {"roles": ["boss"]})
    assert closed(other) == [], "the clerk may have submitted"


def test_another_end_does_not_open_this_one() -> None:
    raw = submitted({}, {}, {}, refuse={"step": "d"})
    raw["steps"]["d"] = {"index": 9, "step": "d", "service": "s", "transitions": {}}
    (finding,) = closed(raw)
    assert finding.pointer == APPROVE
    assert finding.message.endswith("no state can reach the end 'c'")


def test_votes_are_of_different_people() -> None:
    def votes(number: int, count: int) -> Raw:
        of_boss = {"roles": ["boss"]}
        return submitted({"boss": number}, of_boss, {**of_boss, "approvals": {"of": "boss", "count": count}})

    assert pointers(votes(2, 2)) == [APPROVE]
    assert "and 2 others must run this transition" in closed(votes(2, 2))[0].message
    assert pointers(votes(3, 2)) == []
    assert pointers(votes(3, 3)) == [APPROVE]
    assert pointers(votes(2, 3)) == [], "that there are never 3 votes is a finding of its own"
    by_all = {"roles": ["boss"], "approvals": {"of": "boss", "count": 2}}
    assert pointers(submitted({"boss": 2}, by_all, {"roles": ["boss"]})) == [APPROVE]
    assert pointers(submitted({"boss": 3}, by_all, {"roles": ["boss"]})) == []


def chain(rounds: int, people: int) -> Raw:
    """Transitions in a row, each by somebody who ran none of the ones before."""
    steps = {
        f"s{n}": {f"t{n}": {"step": f"s{n + 1}", "roles": ["boss"], "notBy": [f"t{m}" for m in range(n)]}}
        for n in range(rounds)
    }
    steps["s0"]["t0"]["notBy"] = ["t0"]
    return flow_of({**steps, f"s{rounds}": {}}, {"boss": people})


def test_a_row_of_duties_needs_as_many_people() -> None:
    assert pointers(chain(5, 4)) == ["/steps/s4/transitions/t4/notBy"]
    assert pointers(chain(5, 5)) == []
    assert pointers(chain(5, 3)) == ["/steps/s3/transitions/t3/notBy"], "what follows is a consequence"


def test_a_way_around_a_duty_is_enough() -> None:
    steps: dict[str, dict[str, Raw]] = {
        "a": {"submit": {"step": "b"}, "skip": {"step": "b"}},
        "b": {"approve": {"step": "c", "notBy": ["submit"]}},
        "c": {},
    }
    assert pointers(flow_of(steps, {})) == []
    steps["b"]["approve"]["notBy"] = ["submit", "skip"]
    assert pointers(flow_of(steps, {})) == [APPROVE]


def test_a_timeout_runs_what_nobody_may() -> None:
    raw = submitted({}, {}, {})
    raw["steps"]["b"]["timeout"] = {"after": "P1D", "transition": "approve"}
    assert closed(raw) == []


def test_a_role_that_can_be_assigned_again_has_other_people() -> None:
    raw = submitted({"boss": 1}, {"roles": ["boss"]}, {"roles": ["boss"]})
    assert pointers(raw) == [APPROVE]
    again = {"role": "boss", "from": "payload.boss"}
    schema = {"required": ["boss"], "properties": {"boss": {"type": "string"}}}
    change = {"transition": "change", "step": "b", "assign": [again], "payloadSchema": schema}
    raw["steps"]["b"]["transitions"]["change"] = change
    assert pointers(raw) == []


@pytest.mark.parametrize("other", [{"group": "chiefs"}, {"assignable": True}, {"assignable": ["boss"]}])
def test_a_role_with_other_ways_to_it_is_not_limited(other: Raw) -> None:
    raw = submitted({"boss": 1}, {"roles": ["boss"]}, {"roles": ["boss"]})
    raw["participants"]["boss"] = other
    assert closed(raw) == []


names = st.sampled_from(["t", "u", "v", "w"])
members = st.fixed_dictionaries(
    {"step": st.sampled_from("abcd")},
    optional={
        "roles": st.lists(st.sampled_from(["boss", "clerk"]), min_size=1, max_size=2, unique=True),
        "notBy": st.lists(names, min_size=1, max_size=3, unique=True),
        "count": st.integers(2, 3),
    },
)
randoms = st.dictionaries(st.sampled_from("abc"), st.dictionaries(names, members, max_size=3), min_size=3)


def excluded(raw: Raw, people: dict[str, int]) -> set[str]:
    """The transitions that nobody can run though a state is there: by trying all, with people by name."""
    named = {role: [f"{role}{n}" for n in range(number)] for role, number in people.items()}
    start: tuple[str, frozenset[tuple[str, str]]] = ("zero", frozenset())
    seen, frontier, ran = {start}, deque([start]), set()
    while frontier:
        step, done = frontier.popleft()
        for name, each in raw["steps"][step]["transitions"].items():
            banned = {person for person, run in done if run in each.get("notBy", ())}
            count = each.get("approvals", {}).get("count", 1)
            groups = [named[role] for role in each["roles"]] if "roles" in each else [["owner"]]
            for group in groups:
                for chosen in combinations([person for person in group if person not in banned], count):
                    ran.add(f"/steps/{step}/transitions/{name}/notBy")
                    after = (each["step"], done | {(person, name) for person in chosen})
                    if after not in seen:
                        seen.add(after)
                        frontier.append(after)
    entered = {step for step, _ in seen}
    return {
        f"/steps/{step}/transitions/{name}/notBy"
        for step in entered
        for name, each in raw["steps"][step]["transitions"].items()
        if "notBy" in each and each.get("approvals", {}).get("count", 1) <= people.get("boss", 0)
    } - ran


@examples(300)
@given(randoms, st.integers(1, 3), st.integers(1, 2))
def test_exactly_the_excluded_are_found(steps: dict[str, Any], bosses: int, clerks: int) -> None:
    people = {"boss": bosses, "clerk": clerks}
    for transitions in steps.values():
        for each in transitions.values():
            count = each.pop("count", None)
            if count is not None and each.get("roles") == ["boss"]:
                each["approvals"] = {"of": "boss", "count": count}
            if "notBy" in each:
                known = {name for others in steps.values() for name in others}
                each["notBy"] = [name for name in each["notBy"] if name in known] or ["name"]
    raw = flow_of({**steps, "d": {}}, people)
    assert set(pointers(raw)) == excluded(raw, people)


def excluded_owner(names: int, people: int) -> Raw:
    """The owner is excluded, beside transitions that each person of a role may have run or not."""
    ways = {f"t{n}": {"step": "a", "roles": ["boss"]} for n in range(names)}
    out = {"step": "b", "roles": ["boss"], "notBy": list(ways)}
    never = {"step": "c", "notBy": ["name"]}
    return flow_of({"a": {**ways, "out": out}, "b": {"never": never}, "c": {}}, {"boss": people})


def test_a_search_that_takes_long_is_given_up() -> None:
    with bounded(2):
        assert pointers(excluded_owner(20, 12)) == []
    assert pointers(excluded_owner(3, 4)) == ["/steps/b/transitions/never/notBy"]


def test_many_rules_are_not_searched() -> None:
    assert pointers(chain(MAX_RULES + 1, 15)) == ["/steps/s15/transitions/t15/notBy"]
    assert pointers(chain(MAX_RULES + 2, 15)) == []


edges = st.integers(1, 9).flatmap(
    lambda size: st.lists(st.lists(st.integers(0, size - 1), max_size=3), min_size=size, max_size=size).map(
        lambda targets: {str(n): [str(to) for to in each] for n, each in enumerate(targets)}
    )
)


@given(edges)
def test_descendants_are_all_that_can_be_reached(graph: dict[str, list[str]]) -> None:
    found = descendants(graph)
    for step in graph:
        bits = sum(1 << position for position, other in enumerate(graph) if other in reached(graph, [step]))
        assert found[step] == bits
