"""Definitions as bytes: what is read, and what is refused, where and why."""

import math
import tomllib
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from app.contracts.errors import DefinitionSourceError
from app.sources.format_faults import FormatError
from app.sources.formats import MAX_BYTES, decode, decode_json
from app.sources.yaml_format import MAX_MARKS, count_marks, read_yaml
from tests.support.long_form import examples, form
from tests.support.processor_time import bounded
from tests.support.samples import flow_dict

SHARE = form("formats: share of the largest document: one of", short=5, long=1)


def read(text: str | bytes, suffix: str) -> Any:
    return decode(text.encode() if isinstance(text, str) else text, suffix, "f")


def refusal(text: str | bytes, suffix: str) -> str:
    with pytest.raises(DefinitionSourceError) as refused:
        read(text, suffix)
    message = str(refused.value)
    assert message.startswith("f: ")
    assert "\n" not in message
    return message.removeprefix("f: ")


YAML_FLOW = """\
flow: loop  # the slug
initialStep: a
steps:
  a: &step
    index: 0
    step: a
    service: svc
    transitions:
      again: {transition: again, step: a}
      no: {transition: "no", step: b}
  b:
    <<: *step
    index: 1
    step: b
    transitions: {}
"""
TOML_FLOW = """\
flow = "loop"
initialStep = "a"
[steps.a]
index = 0
step = "a"
service = "svc"
transitions.again = {transition = "again", step = "a"}
transitions.no = {transition = "no", step = "b"}
[steps.b]
index = 1
step = "b"
service = "svc"
transitions = {}
"""


def test_the_three_formats_give_one_value_in_one_order() -> None:
    from_yaml, from_toml = read(YAML_FLOW, ".yaml"), read(TOML_FLOW, ".toml")
    assert from_yaml == from_toml
    assert list(from_yaml["steps"]["a"]["transitions"]) == ["again", "no"]
    assert list(from_toml["steps"]["a"]["transitions"]) == ["again", "no"]
    assert read(msgspec.json.encode(from_toml), ".json") == from_toml
    assert read(YAML_FLOW, ".yml") == from_yaml


TEXT = st.text(st.characters(exclude_categories=["C", "Z"], max_codepoint=0xFFFD), max_size=10)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(TEXT, inside, max_size=4),
    max_leaves=20,
)


@given(VALUES)
@examples(60)
def test_whatever_json_says_is_read_as_it_was_meant(value: Any) -> None:
    as_json = msgspec.json.encode(value)
    assert msgspec.json.encode(read(as_json, ".json")) == as_json
    assert msgspec.json.encode(read(as_json, ".yaml")) == as_json  # JSON is YAML


@given(st.binary(max_size=60), st.sampled_from([".json", ".yaml", ".toml"]))
@examples(150)
def test_no_bytes_raise_anything_but_the_error_of_sources(raw: bytes, suffix: str) -> None:
    try:
        decode(raw, suffix, "f")
    except DefinitionSourceError as refused:
        said = str(refused)
    else:
        said = "f: fine"
    assert said.startswith("f: ")


@pytest.mark.parametrize(
    ("text", "suffix", "says"),
    [
        ('{"a":\n 01}', ".json", "line 2, column 3: is not JSON"),
        ('{"a": {"b": [1, {"c": 1, "c": 2}]}}', ".json", "a.b.1: the name 'c' occurs twice"),
        ('{"a": 1, "a": 1}', ".json", "(whole): the name 'a' occurs twice"),
        ("[NaN]", ".json", "NaN is not a number"),
        ("9" * 5000, ".json", "a number is too long"),
        ("[" * 100_000, ".json", "nested too deep"),
        (b'{"a":\n"\xff"}', ".json", "line 2: is not UTF-8"),
        ("", ".json", "line 1, column 1: is not JSON"),
        ("a: 1\nb: 2\na: 3\n", ".yaml", "line 3, column 1: found duplicate key"),
        ("steps:\n  a: [1,\n  b", ".yaml", "line 3, column 4: expected ',' or ']'"),
        ("a: 1\n---\nb: 2\n", ".yaml", "line 2, column 1: found another document"),
        ("a:\n  since: 2026-01-02\n", ".yaml", "line 2, column 10: 2026-01-02 is a date or time"),
        ("at: 2026-01-02T03:04:05Z", ".yaml", "put it in quotes"),
        ("1: a", ".yaml", "line 1, column 1: the name 1 is not text; put it in quotes"),
        ("a: {true: b}", ".yaml", "the name true is not text"),
        ("? [a]\n: b", ".yaml", "a name must be text"),
        (
            "a: !!python/object:os.system {}",
            ".yaml",
            "the tag !!python/object:os.system has no meaning in JSON",
        ),
        ("a: !!binary aGk=", ".yaml", "the tag !!binary"),
        ("a: !mine 1", ".yaml", "the tag !mine"),
        ("guard: !has(payload.x)", ".yaml", "put a text that begins with !, &, *, %, @ or ` in quotes"),
        ("guard: !has(payload.x) && state.ok", ".yaml", "in quotes"),
        ("guard: ! (payload.x)", ".yaml", "line 1, column 8: the tag ! has no meaning in JSON; put a text"),
        ("a:\n  guard: !\n    x", ".yaml", "line 2, column 10: the tag ! has no meaning in JSON"),
        ("t: {guard: !has(payload.x), b: 1}", ".yaml", "in quotes"),
        ("- !(a)\n- b", ".yaml", "in quotes"),
        ("a: @b", ".yaml", "in quotes"),
        ("guard: 'a' == payload.b", ".yaml", "put a guard in quotes"),
        ("guard: payload.x ? a : b", ".yaml", "put a guard in quotes"),
        ("a: &a [*a]", ".yaml", "an alias is inside the value that it names"),
        ("a: *nobody", ".yaml", "undefined alias"),
        ("a: \x01", ".yaml", "line 1, column 4: is not YAML: the character U+0001"),
        ("a: " + "9" * 5000, ".yaml", "a number is too long"),
        ("a: !!int ''", ".yaml", "line 1, column 4: the value does not have the type of its tag !!int"),
        ("a: !!bool perhaps", ".yaml", "does not have the type of its tag !!bool"),
        ("a: !!map [1]", ".yaml", "line 1, column 4: the tag !!map does not fit its value"),
        ("a: 0x" + "f" * 5000, ".yaml", "line 1, column 4: a number is too long"),
        ("a: !<!> b", ".yaml", "line 1, column 4: the tag ! has no meaning in JSON"),
        ("<<: {a: 1}\n<<: {b: 2}", ".yaml", "line 2, column 1: found duplicate key '<<'"),
        ("a: 1\n<<: [1]", ".yaml", "line 2, column 5: expected a mapping, or a list of mappings"),
        (
            "a:\n\t- b",
            ".yaml",
            "line 2, column 1: found character that cannot start any token; indent with spaces",
        ),
        ("a: {b: [1, 2}", ".yaml", "expected ',' or ']'; close what begins in line 1, column 8"),
        (
            'a: "b',
            ".yaml",
            "line 1, column 6: found unexpected end of stream; close what begins in line 1, column 4",
        ),
        (
            "a: b: c",
            ".yaml",
            "line 1, column 5: mapping values are not allowed in this context; put a text with ': '",
        ),
        (
            'a: "\\ud83d\\ude00"',
            ".yaml",
            "line 1, column 7: found invalid Unicode character escape code; write the",
        ),
        (
            "".join(f"%TAG !{n}! tag:x\n" for n in range(200)) + "--- a",
            ".yaml",
            "more than 100 lines with %TAG",
        ),
        ("%YAML 1.1\n---\na: no", ".yaml", "is YAML 1.1"),
        ("[" * 600, ".yaml", "nested too deep"),
        ("[" * 100_000, ".yaml", "nested too deep"),
        ("{" * 100_000, ".yaml", "nested too deep"),
        ("{a: " * 40_000, ".yaml", "nested too deep"),
        ("[\n" * 45_000, ".yaml", "line 501, column 1: is nested too deep"),
        ("- " * 90_000, ".yaml", "nested too deep"),
        ("? " * 90_000, ".yaml", "nested too deep"),
        ("!!seq [" * 90_000, ".yaml", "nested too deep"),
        ("".join(f"{' ' * n}a:\n" for n in range(1300)), ".yaml", "line 501, column 501: is nested too deep"),
        ("a = 1\na = 2", ".toml", "is not TOML: Cannot overwrite a value"),
        ("a = 1\nb = \n", ".toml", "line 2"),
        ("[a]\nsince = 2026-01-02", ".toml", "a.since: 2026-01-02 is a date or time"),
        ("a = [12:30:00]", ".toml", "a.0: 12:30:00 is a date or time"),
        ("a = " + "9" * 5000, ".toml", "a number is too long"),
        ("a = " + "[" * 5000, ".toml", "nested too deep"),
        (b" " * (MAX_BYTES + 1), ".yaml", "is larger than"),
    ],
)
def test_what_is_refused_says_where_and_why(text: str | bytes, suffix: str, says: str) -> None:
    assert says in refusal(text, suffix)


def test_yaml_is_that_of_2009_where_no_is_a_name() -> None:
    assert read("no: off\nyes: 010\non: ~\n", ".yaml") == {"no": "off", "yes": 10, "on": None}
    assert math.isnan(read("a: .nan", ".yaml")["a"])  # the check of definitions says no, with its place


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("y", "y"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("0o17", 15),
        ("0x1F", 31),
        ("-010", -10),
        ("+1", 1),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", -math.inf),
        ("=", "="),
        ("<<", "<<"),
        ("Null", None),
        ("nULL", "nULL"),
        ("TRUE", True),
        ("'true'", "true"),
        ("!!str 2026-01-02", "2026-01-02"),
        ("!!float 1", 1.0),
        ("!!int '3'", 3),
        ("2026-1-2", "2026-1-2"),
    ],
)
def test_a_text_without_quotes_is_what_the_core_schema_says(written: str, value: Any) -> None:
    for parser in (yaml.CSafeLoader, yaml.SafeLoader):
        found = read_yaml(f"a: {written}", parser)["a"]
        assert (found, type(found)) == (value, type(value))


def test_the_parser_without_c_reads_the_same() -> None:
    for text in (YAML_FLOW, "a: &a {x: [1, 2]}\nb: {<<: [*a, {y: 1}], x: 3}\nc: >-\n  d\n  e\n"):
        assert read_yaml(text, yaml.SafeLoader) == read_yaml(text)
    nested = form("parser without C: brackets that are too many", short=600, long=100_000)
    for text in ("[" * nested, "a: !mine 1", "a: 1\na: 2", "a: [1", "a: \x01", "a: ! b"):
        with pytest.raises(FormatError, match=r"^line 1|^line 2"):
            read_yaml(text, yaml.SafeLoader)


def test_merged_members_come_first_and_own_ones_count() -> None:
    found = read("<<: [{a: 1, b: 1}, {a: 2, c: 2}]\nc: 3\nd: 1", ".yaml")
    assert list(found.items()) == [("a", 1), ("c", 3), ("b", 1), ("d", 1)]
    assert read("'<<': 1", ".yaml") == {"<<": 1}


def test_an_anchor_may_be_given_anew() -> None:
    assert read("- &a 1\n- *a\n- &a 2\n- *a\n- &a [&a 3]\n- *a", ".yaml") == [1, 1, 2, 2, [3], 3]


@pytest.mark.parametrize(
    "part",
    ["- a\n", "- 1.5e3\n", '- "a! b"\n', "- &a 1\n", "- {a: 1}\n", f"{'- ' * 499}a\n", "- {a: [], b: }\n"],
)
@pytest.mark.timeout(60)
def test_the_largest_document_within_the_bound_is_read_soon(part: str) -> None:
    text = part * (MAX_MARKS // count_marks(part) // SHARE)
    with bounded(4):
        assert isinstance(read(text, ".yaml"), list)


def test_a_mark_of_byte_order_is_no_part_of_the_text() -> None:
    for suffix, text in ((".json", '{"a": 1}'), (".yaml", "a: 1"), (".toml", "a = 1")):
        assert read(b"\xef\xbb\xbf" + text.encode(), suffix) == {"a": 1}


@pytest.mark.parametrize(
    "level",
    ["a{n}: &a{n} [{refs}]", "a{n}: &a{n} {{<<: [{refs}], k{n}: 1}}"],
    ids=["aliases", "merged"],
)
@pytest.mark.timeout(20)
def test_aliases_of_aliases_are_refused_before_they_are_written_out(level: str) -> None:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    for n in range(1, 30):
        lines.append(level.format(n=n, refs=",".join([f"*a{n - 1}"] * 9)))
    assert "stands for more than 100000 values" in refusal("\n".join(lines), ".yaml")


@pytest.mark.parametrize(
    "part",
    [
        "- a\n",
        "- - - - - a\n",
        "- [a]\n",
        "- {a: 1}\n",
        '- "a": 1\n',
        "? a\n",
        "# c\n",
        "- &a 1\n",
        "\n",
        "- a: 1\n",
    ],
)
@pytest.mark.parametrize(("begin", "end"), [("", ""), ("[", "]"), ("a: [", "]"), ("a:\n", "")])
@pytest.mark.timeout(20)
def test_a_document_that_would_take_long_to_read_is_refused_first(part: str, begin: str, end: str) -> None:
    if begin.endswith("["):
        part = f"{part.strip()},"
    text = begin + part * (800_000 // len(part)) + end
    with bounded(2):
        assert refusal(text, ".yaml").endswith("(100000); write it as JSON")


def test_the_largest_definitions_that_people_write_are_within_the_bound() -> None:
    transitions = "".join(f"      t{n}:\n        transition: t{n}\n        step: a\n" for n in range(30))
    text = "steps:\n" + ("  s:\n    index: 1\n    transitions:\n" + transitions) * 500
    assert len(text) < MAX_BYTES
    assert count_marks(text) < MAX_MARKS


def test_some_aliases_are_fine() -> None:
    text = "a: &a {x: [1, 2]}\nb: [*a, *a]\nc: {<<: *a, y: 1}\nd: &a 1\ne: *a"
    found = read(text, ".yaml")
    assert (found["c"], found["e"]) == ({"x": [1, 2], "y": 1}, 1)
    assert read("%YAML 1.2\n---\na: no", ".yaml") == {"a": "no"}


def test_json_of_a_server_may_be_larger_than_a_file() -> None:
    many = msgspec.json.encode([flow_dict(meta={"text": "x" * 1000}) for _ in range(2000)])
    assert len(many) > MAX_BYTES
    assert len(decode_json(many, "f")) == 2000


def test_toml_as_the_standard_library_reads_it() -> None:
    assert read(TOML_FLOW, ".toml") == tomllib.loads(TOML_FLOW)
