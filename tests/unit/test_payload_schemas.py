"""JSON Schemas of payloads: every fault by its pointer; nothing is fetched."""

from typing import Any

import pytest

from app.flow.conditions.payload_schemas import DIALECT, MAX_BYTES, faults_of_schema, payload_faults

SCHEMA: dict[str, Any] = {
    "$schema": DIALECT,
    "type": "object",
    "required": ["name", "age"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20},
        "age": {"type": "integer", "minimum": 18},
        "mail": {"format": "email"},
        "a/b": {"items": {"$ref": "#/$defs/even"}},
    },
    "additionalProperties": False,
    "$defs": {"even": {"multipleOf": 2}},
}


def test_what_fits_has_no_fault() -> None:
    assert faults_of_schema(SCHEMA) == []
    assert payload_faults(SCHEMA, {"name": "Ada", "age": 36, "mail": "ada@example.org", "a/b": [2, 4]}) == []


def test_every_fault_is_reported_by_its_pointer() -> None:
    payload = {"name": "", "age": 17, "mail": "ada", "a/b": [2, 3, 5], "more": 1}
    faults = {(fault.pointer, fault.message) for fault in payload_faults(SCHEMA, payload)}
    assert {pointer for pointer, _ in faults} == {"", "/name", "/age", "/mail", "/a~1b/1", "/a~1b/2"}
    assert ("", "Additional properties are not allowed ('more' was unexpected)") in faults
    assert [f.message for f in payload_faults(SCHEMA, {})] == [
        '"name" is a required property',
        '"age" is a required property',
    ]


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"type": "objekt"}, "/type"),
        ({"properties": {"a": 3}}, "/properties/a"),
        ({"properties": {"a": {"minLength": -1}}}, "/properties/a/minLength"),
        ({"required": "a"}, "/required"),
        ({"properties": {"a": {"pattern": "(a"}}}, "/properties/a/pattern"),
        ({"properties": {"a": {"pattern": "(?=a)b"}}}, "/properties/a/pattern"),
        ({"$ref": "https://example.org/schema"}, "/$ref"),
        ({"properties": {"a/b": {"$ref": "file:///etc/passwd"}}}, "/properties/a~1b/$ref"),
        ({"allOf": [{"$ref": "other.json"}]}, "/allOf/0/$ref"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "/properties/a/$ref"),
        ({"$dynamicRef": "#none"}, "/$dynamicRef"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "/$schema"),
        ({"$schema": 7}, "/$schema"),
        ({"description": "x" * MAX_BYTES}, ""),
        ({"$ref": "#here", "$defs": {"a": {"$anchor": "there"}}}, "/$ref"),
        ({"properties": {"a": {"$id": "https://example.org/a"}}}, "/properties/a/$id"),
        ({"properties": {"a": {"pattern": "(a{900}){900}"}}}, "/properties/a/pattern"),
        ({"properties": {f"p{n}": {"pattern": f"a{n}"} for n in range(30)}}, ""),
        ({"allOf": [{"minimum": n} for n in range(1500)]}, ""),
    ],
)
def test_what_is_wrong_with_a_schema(schema: dict[str, Any], pointer: str) -> None:
    faults = faults_of_schema(schema)
    assert [fault.pointer for fault in faults] == [pointer]


def test_two_faults_of_a_schema_are_both_reported() -> None:
    faults = faults_of_schema({"type": "objekt", "properties": {"a": {"minLength": "x"}}})
    assert {fault.pointer for fault in faults} == {"/type", "/properties/a/minLength"}


def test_a_reference_in_an_example_is_no_reference() -> None:
    assert faults_of_schema({"const": {"$ref": "https://example.org"}, "examples": [{"$ref": "x"}]}) == []


def doubling(levels: int) -> dict[str, Any]:
    names = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": {**names, f"d{levels}": {}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        (doubling(40), "more than 1000 times"),
        ({"properties": {"x": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}}, "more than 1000 times"),
        ({"items": {"not": {"$ref": "#"}}, "contains": {"$ref": "#"}}, "more than 1000 times"),
        ({"patternProperties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}}, "more than 1000 times"),
        ({"$ref": "#"}, "leads to itself"),
        ({"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"not": {"$ref": "#"}}}}, "leads to itself"),
        (
            {"$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(150)} | {"d150": True}}
            | {"$ref": "#/$defs/d0"},
            "more than 100",
        ),
    ],
)
def test_a_schema_that_may_take_for_ever_is_refused(schema: dict[str, Any], fault: str) -> None:
    (found,) = faults_of_schema(schema)
    assert fault in found.message


def test_recursion_with_one_branch_is_accepted_and_ends() -> None:
    tree = {
        "$defs": {
            "node": {"properties": {"left": {"$ref": "#/$defs/node"}, "right": {"$ref": "#/$defs/node"}}}
        },
        "$ref": "#/$defs/node",
    }
    assert faults_of_schema(tree) == []
    deep: dict[str, Any] = {"left": 1}
    for _ in range(28):
        deep = {"left": deep, "right": {"left": 1}}
    assert payload_faults(tree, deep) == []
    assert faults_of_schema(doubling(6)) == []


def test_references_by_anchor_and_by_escaped_names() -> None:
    schema = {
        "properties": {"a": {"$ref": "#here"}, "b": {"$ref": "#/$defs/a~1b%20c"}},
        "$defs": {"a/b c": {"type": "string"}, "x": {"$anchor": "here", "type": "integer"}},
    }
    assert faults_of_schema(schema) == []
    assert [f.pointer for f in payload_faults(schema, {"a": "x", "b": 1})] == ["/a", "/b"]


def test_names_of_properties_are_no_keywords() -> None:
    assert faults_of_schema({"properties": {"$id": {}, "$ref": {}, "const": {"type": "string"}}}) == []


@pytest.mark.parametrize(
    ("schema", "payload"),
    [
        ({"items": {"anyOf": [{"const": {"a": n}} for n in range(300)]}}, {"l": [{"b": 0}] * 5000}),
        ({"items": {"enum": [f"x{n}" for n in range(900)]}}, {"l": ["x"] * 6000}),
        ({"allOf": [{"pattern": f"a[^x]{{{500 + n}}}c"} for n in range(15)]}, {"l": "ab" * 30_000}),
    ],
)
def test_a_payload_with_too_many_steps_is_refused(schema: dict[str, Any], payload: Any) -> None:
    whole = {"properties": {"l": schema}}
    assert faults_of_schema(whole) == []
    (fault,) = payload_faults(whole, payload)
    assert "too large to be validated" in fault.message
    small = {"l": payload["l"][:3]}
    assert all("larger" not in fault.message for fault in payload_faults(whole, small))


def test_of_a_large_payload_the_first_fault_is_reported() -> None:
    schema = {"properties": {"l": {"items": {"anyOf": [{"const": n} for n in range(10)]}}}}
    (fault,) = payload_faults(schema, {"l": [1] * 100 + ["x"] * 9000})
    assert fault.pointer == "/l/100"
    assert len(payload_faults(schema, {"l": ["x"] * 50})) == 50


def test_a_pattern_is_fast_on_a_long_text() -> None:
    schema = {"properties": {"a": {"pattern": "^(a+)+$"}}}
    assert payload_faults(schema, {"a": "a" * 50_000 + "!"}) != [], "and the test ends"


def test_schemas_of_two_versions_are_not_confused() -> None:
    for n in range(2000):
        schema = {"properties": {"a": {"const": n}}}
        assert payload_faults(schema, {"a": n}) == []
        assert payload_faults(schema, {"a": n + 1}) != []
