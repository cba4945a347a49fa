"""Whole doubles are integers wherever JSON is taken, as in JSON Schema; others are refused alike."""

from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta, Struct

from app.contracts.commands import BatchOperation, SetCommand
from app.contracts.errors import InvalidRequestError
from app.contracts.migration import MigrateCommand
from app.flow.validation import check_flow
from app.flow.values.struct_errors import faults_of
from app.http.endpoint import _decode_again
from app.kit.integers import convert_json
from realtime.gateway.messages import SubscribeMessage, TransitionMessage, decode_message
from tests.support.samples import flow_dict


class Shape(Struct, rename="camel", forbid_unknown_fields=True):
    number: int
    maybe: int | None = None
    bounded: Annotated[int, Meta(ge=1)] = 1
    many: list["Shape"] = []
    named: dict[str, int] = {}
    free: Any = None


WHOLE = {
    "number": 1.0,
    "maybe": -2.0,
    "bounded": 1e3,
    "many": [{"number": 3, "free": 3.0}, {"number": 4.0}],
    "named": {"a.b": 5.0, "c[0]": 6},
    "free": {"number": 7.0},
}


def test_whole_doubles_become_integers_and_free_values_stay() -> None:
    found = convert_json(WHOLE, Shape)
    assert (found.number, found.maybe, found.bounded) == (1, -2, 1000)
    assert [each.number for each in found.many] == [3, 4]
    assert found.named == {"a.b": 5, "c[0]": 6}
    assert isinstance(found.free["number"], float)
    assert isinstance(found.many[0].free, float)
    assert faults_of(WHOLE, Shape) == []
    assert WHOLE["number"] == 1.0, "nothing is changed in place"


@pytest.mark.parametrize("number", [0.5, 1e300, 2.0**60, float("inf"), float("nan"), True, "1", "1.0", [1.0]])
@pytest.mark.parametrize("place", ["number", "maybe", "bounded"])
def test_other_numbers_are_refused(place: str, number: Any) -> None:
    raw = {"number": 1.0, place: number}
    with pytest.raises(msgspec.ValidationError):
        convert_json(raw, Shape)
    assert faults_of(raw, Shape)


def test_a_bound_holds_for_whole_doubles() -> None:
    with pytest.raises(msgspec.ValidationError, match=">= 1"):
        convert_json({"number": 1, "bounded": 0.0}, Shape)


def test_versions_and_revisions_are_taken_alike_by_every_door() -> None:
    body, faults = _decode_again(b'{"from": 1.0, "to": 2.0, "limit": 10.0}', MigrateCommand)
    assert (body.from_version, body.to_version, body.limit, faults) == (1, 2, 10, [])
    operation = {"op": "reset", "userId": "u", "flowId": "f", "expectedRevision": 3.0}
    assert convert_json(operation, BatchOperation).expected_revision == 3
    subscribed = decode_message(({"flowId": "f", "epoch": "e", "since": 4.0},), SubscribeMessage)
    assert subscribed.since == 4
    moved = {"flowId": "f", "transition": "t", "expectedRevision": 5.0, "payload": {"n": 5.0}}
    message = decode_message((moved,), TransitionMessage)
    assert message.expected_revision == 5
    assert isinstance(message.payload, dict)
    assert isinstance(message.payload["n"], float)
    for raw in (b'{"from": 1.5, "to": 2}', b'{"from": 0.0, "to": 2}', b'{"from": "1.0", "to": 2}'):
        refused, faults = _decode_again(raw, MigrateCommand)
        assert refused is None
        assert [fault.pointer for fault in faults] == ["/from"]
    with pytest.raises(InvalidRequestError):
        decode_message(({"flowId": "f", "epoch": "e", "since": 0.5},), SubscribeMessage)


def test_a_definition_is_reported_how_its_author_writes_an_integer() -> None:
    raw = flow_dict()
    raw["steps"]["a"]["index"] = 7.0
    (found,) = (finding for finding in check_flow(raw) if finding.severity == "error")
    assert (found.pointer, found.advice) == ("/steps/a/index", "write 7")


def test_doubles_of_a_payload_stay_doubles() -> None:
    command = convert_json({"step": "a", "payload": {"n": 1.0}}, SetCommand)
    assert isinstance(command.payload, dict)
    assert isinstance(command.payload["n"], float)
