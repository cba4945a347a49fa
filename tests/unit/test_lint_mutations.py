"""Every sound definition of the corpus, spoilt in every place by one fault at a time: each is found there."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from app.contracts.definition import Finding
from app.flow.validation import check_flow
from tests.support.corpus import SOUND, read
from tests.support.long_form import form

CHECKED_EVERY = {"a few": 23, "all": 1}[form("mutations of definitions", short="a few", long="all")]
Raw = dict[str, Any]
Part = tuple[str, Raw]
"""A part of a definition and the pointer to it."""
Mutants = Iterator[tuple[Raw, str]]
"""Definitions with one fault each, and its place."""

REQUIRED = {
    "flow": ("flow", "initialStep", "steps"),
    "step": ("index", "step", "service", "transitions"),
    "transition": ("transition", "step"),
    "timeout": ("after", "transition"),
    "config": (),
    "participant": (),
    "approvals": ("of", "count"),
    "assignment": ("role", "from"),
}


def copied(raw: Raw) -> Raw:
    copy: Raw = msgspec.json.decode(msgspec.json.encode(raw))  # ten times as fast as deepcopy
    return copy


def parts(raw: Raw, kind: str) -> list[Part]:
    """All parts of a kind, none of whose names needs escaping."""
    if kind == "flow":
        return [("", raw)]
    if kind == "config":
        return [("/config", raw["config"])] if "config" in raw else []
    steps = [(f"/steps/{name}", step) for name, step in raw["steps"].items()]
    if kind == "step":
        return steps
    if kind == "timeout":
        return [(f"{at}/timeout", step["timeout"]) for at, step in steps if step.get("timeout")]
    if kind == "participant":
        return [(f"/participants/{role}", each) for role, each in (raw.get("participants") or {}).items()]
    ways = [
        (f"{at}/transitions/{name}", way) for at, step in steps for name, way in step["transitions"].items()
    ]
    if kind == "approvals":
        return [(f"{at}/approvals", way["approvals"]) for at, way in ways if way.get("approvals")]
    if kind == "assignment":
        return [
            (f"{at}/assign/{number}", each)
            for at, way in ways
            for number, each in enumerate(way.get("assign") or ())
        ]
    return ways


def spoilt(raw: Raw, kind: str, spoil: Callable[[Raw], str | None]) -> Mutants:
    """For each part of a kind, the whole with this part spoilt. ``spoil`` gives where in the part the fault
    is, None when the part cannot be spoilt so."""
    for number in range(len(parts(raw, kind))):
        whole = copied(raw)
        at, part = parts(whole, kind)[number]
        inside = spoil(part)
        if inside is not None:
            yield whole, at + inside


def replaced(member: str, value: Any, inside: str | None = None) -> Callable[[Raw], str | None]:
    """Spoils a part that has the member by another value of it."""

    def spoil(part: Raw) -> str | None:
        if part.get(member) is None:
            return None
        part[member] = value
        return f"/{member}" if inside is None else inside

    return spoil


def given(member: str, value: Any, inside: str | None = None) -> Callable[[Raw], str | None]:
    """Spoils a part by a member, whether it has it or not."""

    def spoil(part: Raw) -> str | None:
        part[member] = value
        return f"/{member}" if inside is None else inside

    return spoil


def without(member: str) -> Callable[[Raw], str | None]:
    def spoil(part: Raw) -> str | None:
        del part[member]
        return ""

    return spoil


def required(raw: Raw) -> Mutants:
    for kind, members in REQUIRED.items():
        for member in members:
            yield from spoilt(raw, kind, without(member))


def unknown(raw: Raw) -> Mutants:
    for kind in REQUIRED:
        yield from spoilt(raw, kind, given("whatever", 1, ""))


def wrongly_typed(raw: Raw) -> Mutants:
    texts = {
        "flow": ("flow", "initialStep", "title", "description", "ttl"),
        "step": ("step", "service", "module", "path", "title", "description"),
        "transition": ("transition", "step", "guard", "title", "description"),
        "timeout": ("after", "transition", "resume"),
        "config": ("queryParam", "defaultFlow"),
        "participant": ("group", "claim", "title", "description"),
        "approvals": ("of",),
        "assignment": ("role", "from"),
    }
    objects = {
        "flow": ("steps", "config", "prefabs", "meta", "participants"),
        "step": ("transitions", "timeout", "payloadMap", "meta"),
        "transition": ("payloadSchema", "meta", "approvals"),
        "config": ("services", "modules", "pathes"),
    }
    wrong: Any
    for kinds, wrong in ((texts, 5), (objects, ["x"])):
        for kind, members in kinds.items():
            for member in members:
                yield from spoilt(raw, kind, given(member, wrong))
    for wrong in ("yes", 1, None):
        for member in ("explicit", "reversible"):
            yield from spoilt(raw, "transition", given(member, wrong))
        yield from spoilt(raw, "step", given("initial", wrong))
    for wrong in ("0", 0.5, None, True, 0.0):
        yield from spoilt(raw, "step", given("index", wrong))
    for kind in ("flow", "transition"):
        yield from spoilt(raw, kind, given("roles", "boss"))
        yield from spoilt(raw, kind, given("roles", ["boss", 5], "/roles/1"))
    for wrong in ("2", 0.5, None, True, 2.0):
        yield from spoilt(raw, "approvals", given("count", wrong))
    for member in ("assign", "notBy"):
        yield from spoilt(raw, "transition", given(member, "submit"))
    yield from spoilt(raw, "flow", given("instances", "several"))
    for wrong in (5, ["/a"], "", "rejected", True, {}, {"merges": ["/a"]}):
        yield from spoilt(raw, "transition", given("conflict", wrong))
    for wrong, at in (("/a", ""), ([], ""), (["/a", "b"], "/1"), ([5], "/0"), ([""], "/0")):
        yield from spoilt(raw, "transition", given("conflict", {"merge": wrong}, f"/conflict/merge{at}"))


def broken_names(raw: Raw) -> Mutants:
    for slug in ("a:b", "", "a b", "-a", "é", "a" * 65, "a/b", "a\n"):
        yield from spoilt(raw, "flow", given("flow", slug))
    for step in ("", "another", "ZZ\u00e9"):
        yield from spoilt(raw, "step", given("step", step))
        yield from spoilt(raw, "transition", given("transition", step))
    for name in list(raw["steps"]):
        whole = copied(raw)
        text = whole["steps"].pop(name)
        whole["steps"] = {f"{name} x": {**text, "step": f"{name} x"}} | whole["steps"]
        for _, way in parts(whole, "transition"):
            way["step"] = f"{name} x" if way["step"] == name else way["step"]
        whole["initialStep"] = f"{name} x" if whole["initialStep"] == name else whole["initialStep"]
        whole["prefabs"] = {}
        yield whole, f"/steps/{name} x"


def broken_references(raw: Raw) -> Mutants:
    yield from spoilt(raw, "flow", given("initialStep", "nowhere"))
    yield from spoilt(raw, "transition", given("step", "nowhere"))
    yield from spoilt(raw, "timeout", given("transition", "nowhere"))
    yield from spoilt(raw, "transition", given("notBy", ["nowhere"], "/notBy/0"))
    yield from spoilt(raw, "participant", replaced("takeOver", ["nobody"], "/takeOver/0"))
    yield from spoilt(raw, "approvals", given("of", "nobody"))
    yield from spoilt(raw, "assignment", given("role", "nobody"))
    for source in ("", "approver", "payload.", "payload.a.b", "payload.a b", "state.payload.a", "payload./a"):
        yield from spoilt(raw, "assignment", given("from", source))


def broken_indexes(raw: Raw) -> Mutants:
    yield from spoilt(raw, "step", given("index", -1))
    steps = list(raw["steps"])
    for first, second in pairwise(steps):
        whole = copied(raw)
        whole["steps"][second]["index"] = whole["steps"][first]["index"]
        yield whole, f"/steps/{second}/index"


def broken_durations(raw: Raw) -> Mutants:
    for duration in ("", "1 day", "P", "P1M", "-P1D", "PT0S", "P36526D", "PT0.0001S"):
        yield from spoilt(raw, "flow", given("ttl", duration))
        yield from spoilt(raw, "timeout", given("after", duration))
        yield from spoilt(raw, "participant", given("claim", duration))
    yield from spoilt(raw, "timeout", given("after", "PT0.999S"))


def broken_positions(raw: Raw) -> Mutants:
    yield from spoilt(raw, "step", replaced("payloadMap", {"a": 0, "b": -1}, "/payloadMap/b"))
    yield from spoilt(raw, "step", replaced("payloadMap", {"a": 0, "b": 1.0}, "/payloadMap/b"))
    yield from spoilt(raw, "step", replaced("payloadMap", {"a": 0, "b": "1"}, "/payloadMap/b"))


def broken_conditions(raw: Raw) -> Mutants:
    for guard in ("", "payload.", "state.nothing == 1", "user.name == 'x'", "1", "now", "state.ok = true"):
        yield from spoilt(raw, "transition", given("guard", guard))
    for schema, inside in (
        ({"type": "thing"}, "/type"),
        ({"properties": {"a/b": {"maxLength": -1}}}, "/properties/a~1b/maxLength"),
        ({"$ref": "#/$defs/none"}, "/$ref"),
        ({"$ref": "other.json"}, "/$ref"),
    ):
        yield from spoilt(raw, "transition", given("payloadSchema", schema, f"/payloadSchema{inside}"))


def conditions_of_timeouts(raw: Raw) -> Mutants:
    for name, step in raw["steps"].items():
        timed = (step.get("timeout") or {}).get("transition")
        if timed is None:
            continue
        for member, value in (("guard", "state.ok"), ("payloadSchema", {"required": ["a"]})):
            whole = copied(raw)
            whole["steps"][name]["transitions"][timed][member] = value
            yield whole, f"/steps/{name}/transitions/{timed}/{member}"


def broken_roles(raw: Raw) -> Mutants:
    yield from spoilt(raw, "flow", given("roles", []))
    for role in ("", " x", "x\ty", "x" * 129):
        for kind in ("flow", "transition"):
            yield from spoilt(raw, kind, given("roles", ["a", role], "/roles/1"))
        for member in ("assignable", "takeOver"):
            listed = [*list(raw.get("participants") or ())[:1], role]
            yield from spoilt(raw, "participant", replaced(member, listed, f"/{member}/1"))
        yield from spoilt(raw, "participant", given("group", role))


def broken_votes(raw: Raw) -> Mutants:
    for count in (0, -1, 101, 2**53):
        yield from spoilt(raw, "approvals", given("count", count))


def votes_of_timeouts(raw: Raw) -> Mutants:
    for role in list(raw.get("participants") or ())[:1]:
        for name, step in raw["steps"].items():
            for way in step["transitions"]:
                whole = without_timeouts(raw)
                whole["steps"][name]["timeout"] = {"after": "P1D", "transition": way}
                transition = whole["steps"][name]["transitions"][way]
                for other in ("guard", "payloadSchema"):
                    transition.pop(other, None)
                transition["approvals"] = {"of": role, "count": 2}
                yield whole, f"/steps/{name}/transitions/{way}/approvals"


ERRORS = [
    required, unknown, wrongly_typed, broken_names, broken_references, broken_indexes, broken_durations,
    broken_positions, broken_conditions, conditions_of_timeouts, broken_roles, broken_votes,
    votes_of_timeouts,
]  # fmt: skip


@pytest.mark.parametrize("mutate", ERRORS, ids=lambda mutate: mutate.__name__)
def test_an_error_is_found_in_every_place(mutate: Callable[[Raw], Mutants]) -> None:
    tried = 0
    for file in SOUND:
        for mutant, pointer in mutate(read(file)):
            tried += 1
            if (tried - 1) % CHECKED_EVERY:
                continue
            errors = [finding for finding in check_flow(mutant) if finding.severity == "error"]
            assert [error.pointer for error in errors] == [pointer], (file.name, pointer, errors)
            assert errors[0].advice
    assert tried >= 5


def repeated_roles(raw: Raw) -> Mutants:
    for kind in ("flow", "transition"):
        yield from spoilt(raw, kind, given("roles", ["a", "b", "a"], "/roles/2"))


def roles_of_nobody(raw: Raw) -> Mutants:
    timed = {
        f"{at}/transitions/{step['timeout']['transition']}"
        for at, step in parts(raw, "step")
        if step.get("timeout")
    }
    for mutant, pointer in spoilt(raw, "transition", given("roles", [])):
        if pointer.removesuffix("/roles") not in timed:
            yield mutant, pointer


def without_timeouts(raw: Raw) -> Raw:
    whole = copied(raw)
    for _, step in parts(whole, "step"):
        step.pop("timeout", None)
    for _, way in parts(whole, "transition"):
        way.pop("roles", None)
    return whole


def guards_that_never_hold(raw: Raw) -> Mutants:
    untimed = without_timeouts(raw)
    for guard in ("false", "!true", "1 == 2", "'a' in ['b']"):
        yield from spoilt(untimed, "transition", given("guard", guard))


def positions_that_lose_values(raw: Raw) -> Mutants:
    for positions in ({"a": 0, "b": 0}, {"a": 0, "b": 2}, {"a": 1}):
        yield from spoilt(raw, "step", given("payloadMap", positions))


def references_to_nothing(raw: Raw) -> Mutants:
    for member in ("service", "module", "path"):
        yield from spoilt(raw, "step", given(member, "$nothing"))


def prefabs_of_nothing(raw: Raw) -> Mutants:
    yield from spoilt(raw, "flow", given("prefabs", {"nowhere": "x"}, "/prefabs/nowhere"))


def short_lives(raw: Raw) -> Mutants:
    for name, step in raw["steps"].items():
        if step.get("timeout"):
            whole = without_timeouts(raw)
            whole["steps"][name]["timeout"] = step["timeout"]
            whole["ttl"] = step["timeout"]["after"]
            yield whole, f"/steps/{name}/timeout/after"


def lonely_steps(raw: Raw) -> Mutants:
    whole = copied(raw)
    back = {"transition": "go", "step": whole["initialStep"]}
    whole["steps"]["lonely"] = {
        "index": 99_999,
        "step": "lonely",
        "service": "s",
        "transitions": {"go": back},
    }
    yield whole, "/steps/lonely"


def traps(raw: Raw) -> Mutants:
    """A round of two steps with no way out, behind each step that has a way."""
    for name, step in raw["steps"].items():
        if not step["transitions"]:
            continue
        whole = copied(raw)
        for index, (one, other) in enumerate([("trap-1", "trap-2"), ("trap-2", "trap-1")]):
            way = {"transition": "on", "step": other}
            whole["steps"][one] = {
                "index": 99_990 + index,
                "step": one,
                "service": "s",
                "transitions": {"on": way},
            }
        whole["steps"][name]["transitions"]["fall"] = {"transition": "fall", "step": "trap-2"}
        yield whole, "/steps/trap-1"


def rules_without_effect(raw: Raw) -> Mutants:
    yield from spoilt(raw, "transition", given("notBy", []))
    yield from spoilt(raw, "transition", given("assign", []))
    yield from spoilt(raw, "approvals", given("count", 1))
    yield from spoilt(raw, "participant", given("assignable", []))


WARNINGS = [
    repeated_roles, roles_of_nobody, guards_that_never_hold, positions_that_lose_values,
    references_to_nothing, prefabs_of_nothing, short_lives, lonely_steps, traps, rules_without_effect,
]  # fmt: skip


@pytest.mark.parametrize("mutate", WARNINGS, ids=lambda mutate: mutate.__name__)
def test_a_warning_is_given_in_every_place(mutate: Callable[[Raw], Mutants]) -> None:
    tried = 0
    for file in SOUND:
        for mutant, pointer in mutate(read(file)):
            tried += 1
            if (tried - 1) % CHECKED_EVERY:
                continue
            found = check_flow(mutant)
            assert {finding.severity for finding in found} == {"warning"}, (file.name, found)
            pointers = [finding.pointer for finding in found if not follows(finding, pointer)]
            assert pointers == [pointer], (file.name, pointer, found)
    assert tried >= 5


def follows(finding: Finding, pointer: str) -> bool:
    """True for a consequence of a transition that is closed elsewhere, or of roles that are given there."""
    expected = (
        "No end can be reached",
        "No transition leads out",
        "Transitions require roles",
        "Mixed roles",
        "may not vote",
        "nothing to claim",
        "no person runs it",
        "always excludes",
        "Nobody has the role",
        "Nobody can get this role",
    )
    return finding.pointer != pointer and any(part in finding.message for part in expected)


def test_what_ends_a_flow_is_missed_once() -> None:
    for file in SOUND:
        raw = read(file)
        ends = [name for name, step in raw["steps"].items() if not step["transitions"]]
        for name in ends:
            again = {"transition": "again", "step": raw["initialStep"], "guard": "user.id == state.userId"}
            raw["steps"][name]["transitions"] = {"again": again}
        found = check_flow(raw)
        assert [(f.pointer, f.severity) for f in found] == [("/steps", "warning")], (file.name, found)
