"""Keywords and formats that JSON Schema does not know: a warning at each place, with what was meant."""

from typing import Any

import pytest

from app.flow.conditions.payload_schemas import payload_faults
from app.flow.lint.keywords import FORMATS, KEYWORDS, keyword_findings
from app.flow.validation import check_flow
from tests.support.samples import flow_dict

MALFORMED = {
    "date-time": "2026-13-01T00:00:00Z",
    "date": "2026-02-30",
    "time": "25:00:00Z",
    "duration": "1 day",
    "email": "ada",
    "idn-email": "ada",
    "hostname": "-a-",
    "idn-hostname": "-a-",
    "ipv4": "1.2.3.256",
    "ipv6": "1::2::3",
    "uri": "a b",
    "uri-reference": "a b",
    "iri": "a b",
    "iri-reference": "a b",
    "uri-template": "{",
    "uuid": "1",
    "json-pointer": "a",
    "relative-json-pointer": "a",
    "regex": "(",
}


def findings(schema: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Severity, pointer and advice of each finding about the schema in a flow that has it."""
    raw = flow_dict()
    raw["steps"]["a"]["transitions"]["go"]["payloadSchema"] = schema
    at = "/steps/a/transitions/go/payloadSchema"
    return [(f.severity, f.pointer.removeprefix(at), f.advice) for f in check_flow(raw) if at in f.pointer]


@pytest.mark.parametrize(
    ("given", "value", "meant"),
    [
        ("requried", ["a"], "required"),
        ("require", ["a"], "required"),
        ("Required", ["a"], "required"),
        ("minLenght", 1, "minLength"),
        ("min_length", 1, "minLength"),
        ("maxlength", 1, "maxLength"),
        ("maxLen", 1, "maxLength"),
        ("mininum", 1, "minimum"),
        ("maximun", 1, "maximum"),
        ("exclusiveMinumum", 1, "exclusiveMinimum"),
        ("divisibleBy", 2, "multipleOf"),
        ("multipleof", 2, "multipleOf"),
        ("propertes", {"a": {}}, "properties"),
        ("addtionalProperties", False, "additionalProperties"),
        ("additional_properties", False, "additionalProperties"),
        ("patern", "^a", "pattern"),
        ("regex", "^a", "pattern"),
        ("enums", [1], "enum"),
        ("formats", "date", "format"),
        ("item", {}, "items"),
        ("uniqueItem", True, "uniqueItems"),
        ("onOf", [{}], "oneOf"),
        ("extends", [{}], "allOf"),
        ("dependencies", {"a": ["b"]}, "dependentRequired"),
        ("additionalItems", False, "items"),
        ("ref", "#", "$ref"),
        ("lenght", 1, "maxLength"),
        ("property", {"a": {}}, "properties"),
        ("requiredProperties", ["a"], "required"),
        ("additionalProperty", False, "additionalProperties"),
        ("multiple", 2, "multipleOf"),
        ("dependancies", {"a": ["b"]}, "dependentRequired"),
        ("max_value", 2, "maximum"),
    ],
)
def test_a_misspelt_keyword_is_a_warning_that_names_the_one_that_was_meant(
    given: str, value: object, meant: str
) -> None:
    assert findings({given: value}) == [("warning", f"/{given}", f"did you mean {meant!r}?")]


def test_it_is_found_at_every_level_and_not_among_names_and_data() -> None:
    wrong = {"minimun": 1}
    schema = {
        "$defs": {"requried": wrong},
        "properties": {"requried": wrong, "a/b": {"items": wrong}},
        "patternProperties": {"^x": wrong},
        "dependentSchemas": {"a": wrong},
        "additionalProperties": wrong,
        "allOf": [True, wrong],
        "prefixItems": [wrong],
        "if": wrong,
        "then": wrong,
        "const": wrong,
        "default": wrong,
        "examples": [wrong],
        "enum": [wrong],
        "propertis": {"minimun": {"minimun": 1}},
        "x-of-a-form": wrong,
    }
    assert {pointer for _, pointer, _ in findings(schema)} == {
        "/$defs/requried/minimun",
        "/properties/requried/minimun",
        "/properties/a~1b/items/minimun",
        "/patternProperties/^x/minimun",
        "/dependentSchemas/a/minimun",
        "/additionalProperties/minimun",
        "/allOf/1/minimun",
        "/prefixItems/0/minimun",
        "/if/minimun",
        "/then/minimun",
        "/propertis",
    }


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("e-mail", "email"),
        ("Email", "email"),
        ("datetime", "date-time"),
        ("date_time", "date-time"),
        ("DATE", "date"),
        ("url", "uri"),
        ("guid", "uuid"),
        ("uuid4", "uuid"),
        ("ip", "ipv4"),
        ("ip-address", "ipv4"),
        ("host-name", "hostname"),
        ("json_pointer", "json-pointer"),
        ("time-stamp", "date-time"),
        ("gud", "uuid"),
        ("uri-ref", "uri-reference"),
    ],
)
def test_an_unknown_format_is_a_warning_that_names_the_one_that_was_meant(given: str, meant: str) -> None:
    schema = {"properties": {"a": {"type": "string", "format": given}}}
    assert findings(schema) == [("warning", "/properties/a/format", f"did you mean {meant!r}?")]


@pytest.mark.parametrize("given", ["iban", "phone", "int64", "binary", ""])
def test_a_format_that_is_like_no_other_is_a_warning_that_lists_those_there_are(given: str) -> None:
    ((severity, _, advice),) = findings({"format": given})
    assert severity == "warning"
    assert "date-time, date, time" in advice


def test_a_keyword_that_is_like_no_other_is_a_warning_too() -> None:
    ((severity, pointer, advice),) = findings({"errorMessage": "no"})
    assert (severity, pointer) == ("warning", "/errorMessage")
    assert "'x-'" in advice
    ((_, _, advice),) = findings({"nullable": True})
    assert '["string", "null"]' in advice


@pytest.mark.parametrize(
    ("keyword", "value", "other"),
    [("then", {}, "if"), ("else", {}, "if"), ("minContains", 1, "contains"), ("maxContains", 1, "contains")],
)
def test_a_keyword_without_the_one_that_it_needs_has_no_effect(
    keyword: str, value: object, other: str
) -> None:
    assert findings({keyword: value}) == [
        ("warning", f"/{keyword}", f"add {other!r}, or leave it out"),
    ]
    assert findings({keyword: value, other: {}}) == []


def test_every_known_format_is_checked() -> None:
    assert MALFORMED.keys() == set(FORMATS)
    for name, text in MALFORMED.items():
        schema = {"properties": {"a": {"format": name}}}
        assert payload_faults(schema, {"a": text}), name
        assert findings(schema) == []


def test_every_known_keyword_is_silent() -> None:
    for keyword in KEYWORDS:
        schema = {keyword: {}, "if": True, "contains": True}
        assert [f.pointer for f in keyword_findings("", schema)] == [], keyword
