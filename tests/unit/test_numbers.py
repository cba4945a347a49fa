"""Integers beyond 64 bits: those that are doubles are taken as doubles, others are refused."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contracts.callers import trusted_caller
from app.contracts.commands import BatchOperation, Origin, SetCommand, StartCommand, trusted_origin
from app.contracts.errors import InvalidDefinitionError, InvalidPayloadError
from app.exchange.conversion_report import ConversionReport
from app.exchange.xstate_reading import read_machine
from app.flow.validation import check_flow, parse_flow
from app.kit.numbers import with_doubles
from realtime.json_packets import Json
from tests.support.rig import rig
from tests.support.samples import flow_dict

TAKEN = {
    100000000000000000000: 1e20,  # as JavaScript writes 1e20
    9223372036854776000: 2.0**63,  # as JavaScript writes 2**63
    -18446744073709552000: -(2.0**64),
    123456789012345680000: 123456789012345680000.0,
    2**63: 2.0**63,
    2**64: 2.0**64,
    -(2**70): -(2.0**70),
    10**22: 1e22,
    2**1023: 2.0**1023,
}
REFUSED = [
    2**63 + 1,
    2**64 - 1,
    -(2**63) - 1,
    2**64 + 1,
    12345678901234567890,
    10**20 + 1,
    10**23,
    10**400,
    -(10**400),
]


@pytest.mark.parametrize(("given_number", "double"), TAKEN.items())
def test_an_integer_that_is_a_double_becomes_one(given_number: int, double: float) -> None:
    found = with_doubles({"a": [given_number, {"b": given_number}]})
    assert found == {"a": [double, {"b": double}]}
    assert type(found["a"][0]) is float
    assert type(found["a"][1]["b"]) is float


@pytest.mark.parametrize(
    "value",
    [*REFUSED, 2**63 - 1, -(2**63), 0, True, None, 1.5, "100000000000000000000", {"a": [1]}, msgspec.UNSET],
)
def test_everything_else_stays_as_it_is(value: Any) -> None:
    assert with_doubles(value) is value
    stored = {"a": [value]}
    assert with_doubles(stored) is stored


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_that_javascript_writes_is_taken_as_the_number_that_it_was(number: float) -> None:
    written = msgspec.json.encode(number).decode()
    if (
        abs(number) < 1e21 and number.is_integer()
    ):  # Number.prototype.toString: the shortest digits, then zeros
        digits, _, exponent = f"{number!r}e0".partition("e")
        written = str(int(float(digits) * 1)) if exponent == "0" else _unfolded(repr(number))
    assert float(with_doubles(msgspec.json.decode(written))) == number


def _unfolded(written: str) -> str:
    """The digits of a number with an exponent."""
    digits, exponent = written.split("e")
    whole, _, fraction = digits.partition(".")
    return f"{whole}{fraction}".ljust(len(whole) + int(exponent), "0")


async def test_every_command_takes_them() -> None:
    r = await rig()
    big, double = {"n": 10**20}, {"n": 1e20}
    async with r.service as service:
        flows = service.as_trusted()
        state, _ = await flows.start_flow("ada", "loop", StartCommand(payload=big))
        assert state.payload == double
        state = await flows.execute_transition("ada", "loop", "again", {"m": [2**64]})
        assert state.payload == {"n": 1e20, "m": [2.0**64]}
        state = await flows.set_flow_state("ada", SetCommand(step="b", flow="loop", payload=big))
        assert state.payload == double
        operation = BatchOperation(
            op="transition", transition="done", user_id="ada", flow_id="loop", body={"payload": {"k": 2**70}}
        )
        (outcome,) = await service.bulk.run([operation], trusted_origin("root"))
        assert outcome.state is not None
        assert outcome.state.payload == {"n": 1e20, "k": 2.0**70}
        assert msgspec.json.decode(msgspec.json.encode(outcome.state.payload)) == outcome.state.payload


@pytest.mark.parametrize("number", REFUSED)
async def test_every_command_refuses_others_by_place(number: int) -> None:
    r = await rig()
    origin = Origin(trusted_caller("ada"), request_id="r1")
    payload = {"a": [{"b": number}]}
    async with r.service as service:
        flows = service.as_trusted()
        with pytest.raises(InvalidPayloadError) as refusal:
            await service.start_flow("ada", "loop", StartCommand(payload=payload), origin=origin)
        await flows.start_flow("ada", "loop")
        for refused in (
            service.execute_transition("ada", "loop", "again", payload, origin=origin),
            service.set_flow_state("ada", SetCommand(step="b", flow="loop", payload=payload), origin=origin),
        ):
            with pytest.raises(InvalidPayloadError) as refusal:
                await refused
            (fault,) = refusal.value.faults
            assert fault.pointer == "/payload/a/0/b"
            assert "64 bits, or be exact as a double" in fault.message


async def test_a_repeated_request_may_spell_the_number_otherwise() -> None:
    r = await rig()
    origin = Origin(trusted_caller("ada"), request_id="r1")
    async with r.service as service:
        flows = service.as_trusted()
        await flows.start_flow("ada", "loop")
        first = await service.execute_transition("ada", "loop", "again", {"n": 10**20}, origin=origin)
        again = await service.execute_transition("ada", "loop", "again", {"n": 1e20}, origin=origin)
    assert (again.revision, again.payload) == (first.revision, {"n": 1e20})


def test_definitions_take_them_in_schemas_and_meta() -> None:
    raw = flow_dict(meta={"n": 10**20})
    raw["steps"]["a"]["meta"] = {"n": 2**64}
    go = raw["steps"]["a"]["transitions"]["go"]
    go["payloadSchema"] = {"properties": {"n": {"maximum": 10**20, "enum": [9223372036854776000]}}}
    go["meta"] = {"n": [10**20]}
    assert check_flow(raw) == []
    flow, _ = parse_flow(raw)
    step = flow.steps["a"]
    assert (flow.meta, step.meta) == ({"n": 1e20}, {"n": 2.0**64})
    assert step.transitions["go"].meta == {"n": [1e20]}
    assert step.transitions["go"].payload_schema == {
        "properties": {"n": {"maximum": 1e20, "enum": [2.0**63]}},
    }
    go["payloadSchema"] = {"maximum": 10**20 + 1}
    with pytest.raises(InvalidDefinitionError, match="64 bits, or be exact as a double"):
        parse_flow(raw)


def test_machines_take_them() -> None:
    raw = {"id": "m", "initial": "a", "states": {"a": {"type": "final"}}, "meta": {"n": 10**20}}
    assert "a" in read_machine(raw, ConversionReport()).root.children
    with pytest.raises(InvalidDefinitionError, match="64 bits"):
        read_machine({**raw, "meta": {"n": 10**20 + 1}}, ConversionReport())


def test_a_message_with_more_digits_than_python_reads_is_read() -> None:
    digits = "9" * 10_000
    assert Json.loads(f'{{"a": [{digits}, -{digits}, 1]}}') == {"a": [float("inf"), float("-inf"), 1]}
    assert Json.loads(json.dumps({"a": 10**20})) == {"a": 10**20}
