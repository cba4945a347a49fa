"""Any document is a definition that can be run, or has faults: also a machine, a guard, a schema."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from msgspec import structs

from app.contracts.callers import Caller
from app.contracts.commands import StartCommand, TransitionCommand
from app.contracts.definition import FlowDefinition
from app.contracts.errors import DefinitionSourceError, FlowError, GuardRefusedError, InvalidDefinitionError
from app.contracts.flow import Flow
from app.contracts.state import FlowState, StateId
from app.exchange.xstate_export import to_xstate
from app.exchange.xstate_import import from_xstate
from app.exchange.yaml import flow_to_yaml
from app.flow import rules
from app.flow.conditions.guards import FIELDS, check_guard, fault_of_guard
from app.flow.conditions.payload_schemas import faults_of_schema, payload_faults
from app.flow.people.duties import MAX_KNOWN_FLOWS, excluding
from app.flow.validation import parse_flow
from app.sources.formats import DECODERS, decode
from tests.support.fuzzing import fuzz, json_values
from tests.support.machines import flows, machines, spoiled
from tests.support.random_evaluations import Expressions, Schemas
from tests.support.samples import T0, flow_dict, fresh
from tests.support.spoilt_definitions import DEFINITIONS, SOUND_ONES, spoilt

pytestmark = pytest.mark.timeout(2400)

CALLERS = [
    Caller("ada"),
    Caller("bob", frozenset({"clerk", "approver"})),
    Caller("root", scopes=frozenset({"flow:admin"})),
]
STATE = structs.replace(
    fresh(payload={"total": 120, "a": {"c": [1]}}, service="web"), message="m", previous="b"
)
BOB = Caller("bob", frozenset({"approver", "clerk"}))
REFUSALS = {"INVALID_TRANSITION", "GUARD_REFUSED", "INVALID_PAYLOAD", "INSUFFICIENT_PERMISSIONS"}


def run(flow: Flow) -> None:
    """Start at each step, and run each of its transitions."""
    definition = FlowDefinition(flow, version=1, published_at=T0, published_by="tests", source="python")
    for step in list(flow.steps.values())[:8]:
        command = StartCommand(step=step.step, payload={"a": 1})
        state = rules.start(definition, StateId(flow.flow, "ada"), "e1", command, T0)
        for name in [*step.transitions][:8]:
            for caller in CALLERS:
                refusal = ""
                try:
                    after = rules.transition(
                        definition, state, name, TransitionCommand(payload={"amount": 7}), T0, caller
                    )
                    assert isinstance(after, FlowState)
                except FlowError as refused:
                    refusal = refused.code
                assert refusal in {"", *REFUSALS}


def check_definition(raw: Any) -> None:
    """Parse a definition; run a sound one, and write it in every form."""
    try:
        flow, _ = parse_flow(raw)
    except InvalidDefinitionError as refusal:
        faults = refusal.faults
    else:
        faults = []
        run(flow)
        flow_to_yaml(flow)
        to_xstate(flow)
    assert all(fault.message for fault in faults)


def displace_known_flows() -> None:
    """Displace the flows whose duties are remembered, up to a bound, by one small flow."""
    for _ in range(MAX_KNOWN_FLOWS + 1):
        excluding(msgspec.convert(flow_dict(), Flow))


def test_definitions() -> None:
    strategy = spoilt(DEFINITIONS) | spoilt(SOUND_ONES, most=2) | json_values
    fuzz(strategy, check_definition, begin=displace_known_flows)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, bytes]:
    """Documents of definitions, cut and mixed."""
    suffix = draw(st.sampled_from([*DECODERS]))
    raw = draw(st.sampled_from(DOCUMENTS if suffix != ".toml" else TOML))
    for _ in range(draw(st.integers(0, 3))):
        at, skip = draw(st.integers(0, len(raw))), draw(st.integers(0, 9))
        raw = raw[:at] + draw(st.binary(max_size=4) | st.sampled_from(PIECES)) + raw[at + skip :]
    return suffix, raw if draw(st.integers(0, 9)) else draw(st.binary(max_size=60))


PIECES = [
    *(
        b"&a ",
        b"*a",
        b"<<: ",
        b"- ",
        b"? ",
        b"!!python/object:x ",
        b"!!binary ",
        b"|\n",
        b"{",
        b"[[",
        b"\xff",
    ),
    *(b"\n\t", b": ", b"---\n", b"...\n", b"%YAML 1.1\n", b"1e999", b"0x10", b".inf", b"2026-01-01", b"'''"),
    *(b'"\\ud800"', b'"a":1,"a":2,', b"\x00", b"\xef\xbb\xbf", b"[" * 300, b"&x [*x]", b"9" * 400),
]
DOCUMENTS = [
    *(json.dumps(raw).encode() for raw in SOUND_ONES[:6]),
    *(flow_to_yaml(msgspec.convert(raw, Flow)).encode() for raw in SOUND_ONES[:6]),
]
TOML = [
    b'flow = "f"\ninitialStep = "a"\n[steps.a]\nindex = 0\nstep = "a"\n[steps.a.transitions]\n',
    b'flow = "f"\ntitle = """a\nb"""\nmeta = {a = [1, 2.5], b = 2026-01-01}\n[[x]]\ny = true\n',
]


def check_document(document: tuple[str, bytes]) -> None:
    """Decode a document, and check what is in it."""
    suffix, raw = document
    try:
        value = decode(raw, suffix, "place")
    except DefinitionSourceError:
        return
    check_definition(value)


def test_documents() -> None:
    fuzz(documents(), check_document, begin=displace_known_flows)


def check_machine(machine: Any) -> None:
    """Import a machine, and check the flow that it becomes."""
    try:
        imported = from_xstate(machine)
    except InvalidDefinitionError:
        return
    check_definition(imported.flow)


def test_machines_of_xstate() -> None:
    whole = machines(wildcards=True) | flows().map(lambda flow: to_xstate(flow).machine)
    fuzz(whole.flatmap(spoiled) | whole | json_values, check_machine, begin=displace_known_flows)


TERMS = st.sampled_from(
    [
        *(
            *FIELDS,
            "payload.x",
            "payload['y'].z",
            "1",
            "-1.5",
            "'a'",
            "true",
            "null",
            "[1, 2]",
            "x",
            ".",
            "(",
        ),
        *(
            ")",
            "b'\\xff'",
            "'\\U0010ffff'",
            "{'a': 1}",
            "duration('1h')",
            "timestamp('x')",
            "type(1)",
            "r'\\'",
        ),
        *("9223372036854775807", "1u", "google.protobuf.Struct{}", "has(payload.a)", "'a'.matches('(a+)+$')"),
    ]
)
OPERATORS = st.sampled_from(
    [
        " == ",
        " && ",
        " || ",
        " in ",
        " + ",
        " < ",
        ".all(x, ",
        ".map(x, ",
        ".size()",
        " ? ",
        " : ",
        "[",
        "]",
        "!",
    ]
)
guards = st.one_of(
    st.integers(0, 2**32).map(lambda seed: Expressions(seed).guard()),
    st.lists(st.tuples(TERMS, OPERATORS), max_size=6).map(lambda parts: "".join(map("".join, parts))),
    st.text(max_size=60),
    st.builds(lambda text, times: text * times, TERMS | OPERATORS, st.integers(1, 200)),
)
guarded = st.tuples(
    guards,
    st.integers(0, 2**32).map(lambda seed: Expressions(seed).payload())
    | st.dictionaries(st.sampled_from("xyal"), json_values, max_size=3),
)


def check_guarded(value: tuple[str, dict[str, Any]]) -> None:
    """Check a guard, and evaluate it on a payload that could be stored."""
    guard, payload = value
    fault = fault_of_guard(guard)
    if fault is not None:
        assert isinstance(fault, str)
        assert fault
        return
    try:
        check_guard(guard, "go", STATE, storable(payload), BOB, T0)
    except GuardRefusedError as refusal:
        assert len(msgspec.json.encode(refusal.details)) < 20_000  # noqa: PT017 - an answer, not a failure


def storable(payload: Any) -> dict[str, Any]:
    """Return a payload as the service decodes one, an empty one if it refuses it."""
    try:
        found = msgspec.json.decode(json.dumps(payload, allow_nan=False))
    except (ValueError, msgspec.DecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def test_guards() -> None:
    fuzz(guarded, check_guarded)


schemas = st.one_of(
    st.integers(0, 2**32).map(lambda seed: Schemas(seed).schema()),
    st.dictionaries(
        st.sampled_from(
            [
                *("$ref", "$defs", "$id", "$anchor", "$dynamicRef", "$schema", "type", "properties", "items"),
                *("pattern", "format", "enum", "const", "required", "anyOf", "if", "then", "not", "minimum"),
                *("patternProperties", "propertyNames", "uniqueItems", "multipleOf", "maxLength", "contains"),
            ]
        ),
        st.sampled_from(
            ["#", "#/$defs/a", "http://x/y", "object", "(a+)+$", "[", "date-time", 0, -1, 1e308, {}]
        )
        | json_values,
        max_size=4,
    ),
    json_values,
)
schemas_and_payloads = st.tuples(
    schemas,
    st.integers(0, 2**32).map(lambda seed: Schemas(seed).payload())
    | st.dictionaries(st.text(max_size=3), json_values, max_size=3),
)


def check_schema(value: tuple[Any, Any]) -> None:
    """Check a schema as a definition has it, and compare a payload with a sound one."""
    schema, payload = value
    flow = {
        "flow": "f",
        "initialStep": "a",
        "steps": {
            "a": {
                "index": 0,
                "step": "a",
                "service": "s",
                "transitions": {"go": {"transition": "go", "step": "a", "payloadSchema": schema}},
            }
        },
    }
    try:
        parse_flow(flow)
    except InvalidDefinitionError:
        return
    if isinstance(schema, dict) and not faults_of_schema(schema):
        faults = payload_faults(schema, storable(payload))
        assert all(isinstance(fault.pointer, str) for fault in faults)


def test_payload_schemas() -> None:
    fuzz(schemas_and_payloads, check_schema)
