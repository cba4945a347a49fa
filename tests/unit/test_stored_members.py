"""Every member of a state and of a record has its place in the hash chain, the codec and the views.

A new member that is in none of them, or in two places of one, fails here.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import UNSET, Struct, structs

from app.contracts.errors import FlowStateCorruptionError
from app.contracts.record import ERASABLE, ERASABLE_AFTER, HistoryRecord
from app.contracts.state import NOT_STORED, FlowState
from app.contracts.wire import records as record_views
from app.contracts.wire import states as state_views
from app.contracts.wire.records import ExportedRecordView, RecordMetadata, exported_record_view, record_view
from app.contracts.wire.states import ClaimView, StateView, state_view
from app.contracts.wire.times import iso
from app.flow.history_forms import LINK, NOT_SEALED, NOT_SEALED_AFTER, SEALED, SEALED_AFTER
from models.codec import (
    document_fields,
    record_from_document,
    record_to_document,
    state_from_document,
    state_to_document,
)
from models.documents.history import FlowHistoryDocument
from models.documents.states import FlowStateDocument
from tests.support.samples import T0, full_record


def members(shape: type[Struct]) -> list[str]:
    return sorted(field.name for field in structs.fields(shape))


def full_state() -> FlowState:
    state = full_record().after
    assert state is not UNSET
    return state


def test_every_member_of_a_record_is_sealed_erasable_or_listed_as_not_sealed() -> None:
    groups = [*SEALED, "after", *LINK, *ERASABLE, "salt", *NOT_SEALED, "masked"]
    assert sorted(groups) == members(HistoryRecord)
    assert sorted([*SEALED_AFTER, *NOT_SEALED_AFTER, *ERASABLE_AFTER, *NOT_STORED]) == members(FlowState)


def test_every_stored_member_of_a_state_passes_the_codec() -> None:
    state = full_state()
    stored = [name for name in members(FlowState) if name not in NOT_STORED]
    assert [name for name in stored if getattr(state, name) is UNSET] == []
    fields = document_fields(FlowState)
    assert sorted(fields) == stored
    document = state_to_document(state)
    assert sorted(document) == sorted(fields.values())
    assert state_from_document({"_id": state.key, **document}) == state


BOB = {"role": "approver", "userId": "bob"}
WRONG: list[tuple[str, Any]] = [
    ("participants", {"bob": "approver"}),
    ("participants", "bob"),
    ("participants", ["bob"]),
    ("participants", [None]),
    ("participants", [{"role": "approver"}]),
    ("participants", [{"userId": "bob"}]),
    ("participants", [{**BOB, "group": "finance"}]),
    ("participants", [{**BOB, "since": 1}]),
    ("participants", [{**BOB, "userId": 7}]),
    ("participants", [{**BOB, "userId": None}]),
    ("awaits", "approver"),
    ("awaits", [1]),
    ("claims", [BOB]),
    ("claims", [{**BOB, "until": 7}]),
    ("claims", [{**BOB, "until": "soon"}]),
    ("claims", [{**BOB, "until": datetime(9998, 1, 1, tzinfo=UTC)}]),
    ("votes", [{"transition": "go"}]),
    ("runs", [{"transition": "go", "userId": ["bob"]}]),
    ("runs", 1),
    ("people", [{"userId": "bob"}]),
    ("people", [{"userId": "bob", "salt": 1}]),
    ("instanceId", 7),
    ("instanceId", None),
    ("instanceId", "E-2"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_member_of_another_shape_is_damage(name: str, value: Any) -> None:
    state, record = full_state(), full_record()
    document, stored = state_to_document(state), record_to_document(record)
    with pytest.raises(FlowStateCorruptionError):
        state_from_document({"_id": state.key, **document, name: value})
    with pytest.raises(FlowStateCorruptionError):
        record_from_document({**stored, "after": {**stored["after"], name: value}})


def test_a_record_and_its_state_have_the_same_entity() -> None:
    stored = record_to_document(full_record())
    assert stored["stateId"] == full_state().key == "loop;ada;E-1"
    for changed in (
        {**stored, "instanceId": "E-2"},
        {name: value for name, value in stored.items() if name != "instanceId"},
        {**stored, "actorSalt": 7},
    ):
        with pytest.raises(FlowStateCorruptionError):
            record_from_document(changed)


def test_people_are_lists_of_documents_and_times_are_dates() -> None:
    document = state_to_document(full_state())
    assert document["claims"] == [{**BOB, "until": T0 + timedelta(minutes=15)}]
    assert document["participants"][0] == BOB
    assert document["participants"][-1] == {"role": "clerk", "group": "finance"}
    assert document["people"][0] == {"userId": "bob", "salt": "salt-of-bob"}
    assert record_to_document(full_record())["named"] == ["bob", "cleo"]


def test_every_member_of_a_record_passes_the_codec() -> None:
    record = full_record()
    assert [name for name in members(HistoryRecord) if getattr(record, name) is UNSET] == [
        "masked",
        "payload_revision",
    ]
    assert sorted([*document_fields(HistoryRecord), "masked"]) == members(HistoryRecord)
    assert record_from_document(record_to_document(record)) == record
    assert record.after is not UNSET
    naming = structs.replace(record, payload_revision=0, after=structs.replace(record.after, payload=UNSET))
    assert record_from_document(record_to_document(naming)) == naming


def test_every_stored_member_is_declared_in_its_document() -> None:
    for document, shape in ((FlowStateDocument, FlowState), (FlowHistoryDocument, HistoryRecord)):
        declared = {field.alias: field for field in document.model_fields.values()}
        optional = {field.name for field in structs.fields(shape) if field.default is UNSET}
        for name, alias in document_fields(shape).items():
            assert declared[alias].is_required() == (name not in optional), name


SHOWN_AS = {"instances": "instance_id"}
"""Members of StateView by which another member of the state shows; that of many has no label."""


def test_every_member_is_in_a_view_or_listed_as_not_shown() -> None:
    of_state = [SHOWN_AS.get(name, name) for name in members(StateView) if name != "entity_id"]
    assert sorted([*of_state, "entity_id", *state_views.NOT_SHOWN]) == members(FlowState)
    shown = [name for name in members(ExportedRecordView) if name not in ("metadata", "erased")]
    shown = ["instance_id" if name == "entity_id" else name for name in shown]
    listed = [*shown, *members(RecordMetadata), *record_views.NOT_SHOWN]
    assert sorted(listed) == members(HistoryRecord)


def test_a_view_has_the_values_of_its_members() -> None:
    state = full_state()
    view = state_view(state)
    for name in members(StateView):
        shown, value = getattr(view, name), getattr(state, "entity" if name == "entity_id" else name)
        if name == "claims":
            value = tuple(ClaimView(each.role, each.user_id, iso(each.until)) for each in value)
        assert shown == (iso(value) if isinstance(value, datetime) else value), name
    assert (view.instances, view.entity_id) == ("many", state.instance_id)
    assert state_view(structs.replace(state, instance_id=UNSET)).entity_id == state.entity_id
    record = full_record()
    exported = exported_record_view(record)
    assert exported.after == view
    for name in (*members(RecordMetadata), *members(ExportedRecordView)):
        if name not in ("metadata", "timestamp", "after", "entity_id", "erased"):
            shown = getattr(exported if hasattr(exported, name) else exported.metadata, name)
            assert shown == getattr(record, name), name
    assert exported.timestamp == iso(record.timestamp)
    assert exported.entity_id == record.instance_id
    assert exported.erased is UNSET
    assert record_view(structs.replace(record, salt=UNSET)).erased is True
