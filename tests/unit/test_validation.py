"""A definition is checked whole: every finding at once, each with its pointer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.contracts.errors import InvalidDefinitionError
from app.contracts.flow import Flow
from app.flow.validation import check_flow, parse_flow
from tests.support.corpus import SOUND, read
from tests.support.processor_time import bounded
from tests.support.samples import flow_dict

Spoil = Callable[[dict[str, Any]], object]


def _set(path: str, value: Any) -> Spoil:
    def spoil(flow: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        target = flow
        for parent in parents:
            target = target[parent]
        target[last] = value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "pointer", "part"),
    [
        (_set("flow", "a:b"), "/flow", "colon"),
        (_set("flow", "a b"), "/flow", "slug"),
        (_set("flow", ""), "/flow", "slug"),
        (_set("flow", 7), "/flow", "string"),
        (_set("initialStep", "x"), "/initialStep", "no step 'x'"),
        (_set("steps", {}), "/steps", "at least one"),
        (_set("steps", []), "/steps", "object"),
        (_set("steps/a/index", 1), "/steps/b/index", "'a' too"),
        (_set("steps/a/index", -1), "/steps/a/index", "0 or more"),
        (_set("steps/a/index", "0"), "/steps/a/index", "integer"),
        (_set("steps/a/step", "z"), "/steps/a/step", "its key is 'a'"),
        (_set("steps/a/transitions/go/transition", "z"), "/steps/a/transitions/go/transition", "'go'"),
        (_set("steps/a/transitions/go/step", "z"), "/steps/a/transitions/go/step", "no step 'z'"),
        (_set("steps/a/transitions/go/step", None), "/steps/a/transitions/go/step", "string"),
        (_set("steps/a/transitions/go/explicit", "yes"), "/steps/a/transitions/go/explicit", "boolean"),
        (_set("steps/a/payloadMap", {"x": -1}), "/steps/a/payloadMap/x", "0 or more"),
        (_set("steps/a/nonsense", 1), "/steps/a", "nonsense"),
        (_set("nonsense", 1), "", "nonsense"),
        (_set("steps/a/index", 2**63), "/steps/a/index", "64 bits"),
        (_set("meta", {"a": {"b\0": 1}}), "/meta/a", "NUL"),
        (_set("config", {"services": 5}), "/config/services", "not"),
        (_set("ttl", "soon"), "/ttl", "ISO 8601"),
        (_set("ttl", "-P1D"), "/ttl", "ISO 8601"),
        (_set("ttl", 5), "/ttl", "not"),
        (lambda f: f.pop("initialStep"), "", "initialStep"),
        (lambda f: f["steps"]["a"].pop("service"), "/steps/a", "service"),
        (lambda f: f["steps"].update({"a/b": {**f["steps"]["c"], "step": "a/b", "index": 9}}),
         "/steps/a~1b", "name of a step"),
        (_set("steps/c/transitions", {"x y": {"transition": "x y", "step": "a"}}),
         "/steps/c/transitions/x y", "name of a transition"),
    ],
)  # fmt: skip
def test_an_error_is_found_with_its_pointer(spoil: Spoil, pointer: str, part: str) -> None:
    raw = flow_dict()
    spoil(raw)
    found = [f for f in check_flow(raw) if f.severity == "error"]
    assert any(f.pointer == pointer and part in f.message for f in found), found
    with pytest.raises(InvalidDefinitionError):
        parse_flow(raw)


@pytest.mark.parametrize(
    ("spoil", "pointer", "part"),
    [
        (_set("steps/a/transitions", {"go": {"transition": "go", "step": "b"}}), None, ""),
        (_set("steps/b/transitions", {}), None, ""),
        (lambda f: f["steps"].update(z={"index": 9, "step": "z", "service": "s", "transitions": {}}),
         "/steps/z", "No transition leads here"),
        (_set("steps/a/payloadMap", {"x": 0, "y": 0}), "/steps/a/payloadMap", "share"),
        (_set("steps/a/payloadMap", {"x": 0, "y": 3}), "/steps/a/payloadMap", "not 0, 1, 2"),
        (_set("steps/a/module", "$none"), "/steps/a/module", "not in config.modules"),
    ],
)  # fmt: skip
def test_a_warning_does_not_refuse(spoil: Spoil, pointer: str | None, part: str) -> None:
    raw = flow_dict()
    spoil(raw)
    _, warnings = parse_flow(raw)
    if pointer is None:
        assert warnings == []
    else:
        assert [(w.pointer, w.severity) for w in warnings] == [(pointer, "warning")]
        assert part in warnings[0].message


def test_an_initial_step_is_reached_by_entering() -> None:
    raw = flow_dict()
    raw["steps"]["z"] = {"index": 9, "step": "z", "service": "s", "transitions": {}, "initial": True}
    assert check_flow(raw) == []


def test_all_findings_come_at_once() -> None:
    raw = flow_dict(flow="a:b", initialStep="x", nonsense=True)
    raw["steps"]["a"]["index"] = 1
    raw["steps"]["b"]["transitions"]["done"]["step"] = "z"
    raw["steps"]["c"]["service"] = 4
    pointers = {f.pointer for f in check_flow(raw)}
    expected = {"/flow", "/initialStep", "", "/steps/b/index", "/steps/b/transitions/done/step"}
    assert pointers == expected | {"/steps/c/service"}


@pytest.mark.parametrize(
    ("spoil", "pointer", "advice"),
    [
        (_set("initialStep", "A"), "/initialStep", "did you mean 'a'?"),
        (
            _set("initialStep", "zzzz"),
            "/initialStep",
            "name the step at which the flow starts: 'a', 'b', 'c'",
        ),
        (_set("flow", "a:b:c"), "/flow", "write 'a-b-c'; a colon"),
        (_set("payload_map", {}), "", "leave it out; there is flow, initialStep,"),
        (_set("steps/a/payload-map", {}), "/steps/a", "write 'payloadMap' for 'payload-map'"),
        (_set("steps/a/timout", {}), "/steps/a", "write 'timeout' for 'timout'"),
        (_set("steps/a/path", 5), "/steps/a/path", "leave it out, or give a text"),
        (_set("steps/a/index", None), "/steps/a/index", "give a whole number"),
        (_set("steps/b/index", 1.0), "/steps/b/index", "write 1"),
        (_set("steps/a/module", "$nome"), "/steps/a/module", "did you mean 'nomen'?"),
        (_set("steps/a/transitions/go/guard", "user.rolls == []"), "/steps/a/transitions/go/guard",
         "did you mean 'user.roles'?"),
        (_set("steps/a/transitions/go/guard", "user.email == ''"), "/steps/a/transitions/go/guard",
         "a guard reads payload, "),
        (_set("steps/a/transitions/go/guard", "a and b"), "/steps/a/transitions/go/guard", "&& is and"),
        (_set("steps/a/transitions/go/payloadSchema", {"type": "text"}),
         "/steps/a/transitions/go/payloadSchema/type", "write array, boolean"),
        (_set("steps/a/transitions/go/payloadSchema", {"properties": {"type": 5}}),
         "/steps/a/transitions/go/payloadSchema/properties/type", "write a JSON Schema"),
        (_set("steps/a/timeout", {"after": "P1D", "transition": "b"}), "/steps/a/timeout/transition",
         "name the transition that leads to this step: 'go'"),
        (_set("steps/c/timeout", {"after": "P1D", "transition": "b"}), "/steps/c/timeout/transition",
         "remove the timeout"),
    ],
)  # fmt: skip
def test_a_finding_has_advice(spoil: Spoil, pointer: str, advice: str) -> None:
    raw = flow_dict(config={"modules": {"nomen": "x"}})
    spoil(raw)
    (finding,) = check_flow(raw)
    assert finding.pointer == pointer
    assert finding.advice.startswith(advice) or advice in finding.advice


def test_a_refusal_has_advice() -> None:
    with pytest.raises(InvalidDefinitionError) as refusal:
        parse_flow(flow_dict(initialStep="A"))
    assert refusal.value.message == "/initialStep: There is no step 'A'; did you mean 'a'?"


def test_a_schema_that_might_never_end_is_not_evaluated() -> None:
    """Each level refers twice to the next: a validation has two steps to the power of the levels, here some
    seconds."""
    levels: dict[str, Any] = {
        f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(28)
    }
    raw = flow_dict()
    raw["steps"]["b"]["timeout"] = {"after": "P1D", "transition": "done"}
    raw["steps"]["b"]["transitions"]["done"]["payloadSchema"] = {
        "$defs": {**levels, "d28": {}},
        "$ref": "#/$defs/d0",
    }
    here = "/steps/b/transitions/done/payloadSchema"
    with bounded(1):
        assert all(finding.pointer.startswith(here) for finding in check_flow(raw))


@pytest.mark.parametrize("raw", [None, 1, "x", [], {}, {"steps": None}, {"steps": {"a": None}}])
def test_anything_can_be_checked(raw: object) -> None:
    assert check_flow(raw)


@pytest.mark.parametrize("file", SOUND, ids=lambda file: file.stem)
def test_absent_members_stay_absent(file: Path) -> None:
    """Stored definitions of earlier versions read and write as before; members with defaults are left out."""
    raw = read(file)
    flow, _ = parse_flow(raw)
    stored = msgspec.json.decode(msgspec.json.encode(flow))
    assert added(stored, raw) == []
    assert msgspec.json.decode(msgspec.json.encode(flow), type=Flow) == flow


def added(stored: Any, raw: Any) -> list[str]:
    """The members that a stored value has beyond those that were written."""
    if isinstance(stored, list):
        return [name for pair in zip(stored, raw, strict=True) for name in added(*pair)]
    if not isinstance(stored, dict):
        return []
    found = [name for name in stored if name not in raw]
    return found + [name for key in stored if key in raw for name in added(stored[key], raw[key])]


def test_the_shipped_flows_are_sound(shipped: Path) -> None:
    files = sorted(shipped.glob("*.json"))
    assert len(files) >= 3
    for file in files:
        flow, findings = parse_flow(msgspec.json.decode(file.read_bytes()))
        assert findings == []
        assert flow.flow == file.stem


def with_transitions(**members: Any) -> dict[str, Any]:
    """The small flow with twenty transitions from its first step; ``%d`` in a member is their number."""
    flow = flow_dict()
    text = json.dumps(members)
    flow["steps"]["a"]["transitions"] = {
        f"t{n}": {"transition": f"t{n}", "step": "b", **json.loads(text.replace("%d", str(n)))}
        for n in range(20)
    }
    return flow


@pytest.mark.parametrize(
    ("members", "pointer", "part"),
    [
        ({"guard": "payload.l.all(x, x > %d)"}, "/steps/a/transitions", "guards that loop or match"),
        ({"guard": "payload.t.matches('a%d')"}, "/steps/a/transitions", "guards that loop or match"),
        ({"payloadSchema": {"allOf": [{"pattern": "a%d"}] * 15}}, "/steps", "200 patterns"),
        (
            {
                "payloadSchema": {
                    "$defs": {"a": {}},
                    "properties": {f"p{n}": {"$ref": "#/$defs/a"} for n in range(30)},
                }
            },
            "/steps",
            "500 $ref",
        ),
        ({"payloadSchema": {"description": "x" * 15_000}}, "/steps", "bytes of schemas"),
    ],
)
def test_what_may_take_long_is_bounded_over_the_whole(
    members: dict[str, Any], pointer: str, part: str
) -> None:
    (found,) = [f for f in check_flow(with_transitions(**members)) if f.severity == "error"]
    assert (found.pointer, found.severity) == (pointer, "error")
    assert part in found.message
    few = with_transitions(**members)
    few["steps"]["a"]["transitions"] = dict(list(few["steps"]["a"]["transitions"].items())[:5])
    assert [f for f in check_flow(few) if f.severity == "error"] == []
