"""The types of the JavaScript client have what the server sends."""

import re
from pathlib import Path
from typing import get_args

import pytest
from msgspec import structs

from app.contracts.events import PresentClient
from app.contracts.people import Participant, TransitionBy
from app.contracts.record import Kind
from app.contracts.wire.states import ClaimView, FlowUpdatedEvent, StateUpdatedEvent, StateView

TYPES = Path("app/web/client/flow-client.d.ts").read_text()


def members(interface: str) -> set[str]:
    """The names in an interface, or in the first object of a type."""
    found = re.search(rf"export (?:interface|type) {interface}\b[^{{]*{{(.*?)}}", TYPES, re.DOTALL)
    assert found is not None, interface
    return {*re.findall(r"(\w+)\??:", found[1])}


@pytest.mark.parametrize(
    ("interfaces", "shape"),
    [
        (["State"], StateView),
        (["State", "Change"], StateUpdatedEvent),
        (["FlowUpdated", "Change"], FlowUpdatedEvent),
        (["Presence"], PresentClient),
        (["Participant"], Participant),
        (["Claim"], ClaimView),
        (["TransitionBy"], TransitionBy),
    ],
)
def test_an_interface_has_the_members_of_the_shape(interfaces: list[str], shape: type) -> None:
    named = set[str]().union(*(members(each) for each in interfaces))
    assert named == {field.encode_name for field in structs.fields(shape)}


def test_the_kinds_of_changes_are_those_of_records_that_are_no_refusals() -> None:
    found = re.search(r"export type Kind =(.*?);", TYPES, re.DOTALL)
    assert found is not None
    assert re.findall(r"'(\w+)'", found[1]) == [kind for kind in get_args(Kind) if kind != "refused"]
