"""The events that integrations receive."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from uuid import UUID

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, json, structs

from app.contracts.integration import EventType, Integration
from app.contracts.pseudonyms import without_person
from app.contracts.record import HistoryRecord, as_stored
from app.flow.history_chain import seal
from app.services.integrations.events import (
    IntegrationEvent,
    IntegrationEvents,
    UndeliverableEventError,
)
from tests.support import samples
from tests.support.fakes import FakeSecretStore
from tests.support.integrations import at_step, change, checkout, integration

FLOW = checkout()
PAY = change("transitioned", "cart", "pay", message="note")
IDS = {"flowId": "checkout", "userId": "ada", "epoch": "e1", "revision": 1}


class OwnSecret:
    """A secret store with one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    async def secret(self, name: str) -> bytes:
        return self._secret


async def made(secret: bytes = b"k" * 32, **options: Any) -> IntegrationEvents:
    events = IntegrationEvents(OwnSecret(secret), **options)
    await events.prepare()
    return events


@pytest.fixture
async def events() -> IntegrationEvents:
    return await made()


def data_of(event: IntegrationEvent) -> dict[str, Any]:
    data = json.decode(event.body)["data"]
    assert isinstance(data, dict)
    return data


def parsed(event: IntegrationEvent) -> BaseCloudEvent:
    return JSONFormat().read(CloudEvent, event.body)


async def test_an_event(events: IntegrationEvents) -> None:
    event = events.event(integration(), PAY, "flow.step.entered", flow=FLOW)
    assert json.decode(event.body) == {
        "specversion": "1.0",
        "id": event.id,
        "source": "/flows/checkout",
        "type": "flow.step.entered",
        "time": "2126-01-02T03:04:06.678Z",
        "datacontenttype": "application/json",
        "data": {
            **IDS,
            "version": 1,
            "kind": "transitioned",
            "transition": "go",
            "fromStep": "cart",
            "step": "pay",
            "service": "payment",
            "status": "active",
            "actor": "ada",
            "payload": {"sum": 5},
            "message": "note",
            "ok": True,
        },
    }
    assert event.type == "flow.step.entered"


async def test_a_parser_of_cloud_events_reads_it(events: IntegrationEvents) -> None:
    for replay in (False, True):
        event = events.event(integration(), PAY, "flow.transition", replay=replay)
        read = parsed(event)
        assert read.get_id() == event.id
        assert read.get_source() == "/flows/checkout"
        assert read.get_type() == "flow.transition"
        assert read.get_time() == PAY.timestamp
        assert read.get_extension("replay") is (True if replay else None)
        assert read.get_data() == data_of(event)


async def test_owners_of_steps(events: IntegrationEvents) -> None:
    def owner(record: HistoryRecord) -> object:
        return data_of(events.event(integration(), record, "flow.transition", flow=FLOW)).get("service")

    assert owner(change("transitioned", "pay", "ship", service="parcels")) == "parcels"
    assert owner(change("transitioned", "ship", "done")) == "notification"
    assert owner(change("transitioned", "ship", "unknown")) is None
    assert "service" not in data_of(events.event(integration(), PAY, "flow.transition"))


async def test_an_event_with_ids_only(events: IntegrationEvents) -> None:
    thin = integration(thin=True, fields=("/sum",))
    assert data_of(events.event(thin, PAY, "flow.transition", flow=FLOW)) == IDS


async def test_the_entity_of_a_state(events: IntegrationEvents) -> None:
    thin = integration(thin=True)
    labelled = change("started", "", "pay", entity_id="org")
    one_of_many = change("started", "", "pay", instance_id="E-1")
    assert data_of(events.event(thin, labelled, "flow.started")) == {**IDS, "entityId": "org"}
    assert data_of(events.event(thin, one_of_many, "flow.started")) == {**IDS, "entityId": "E-1"}
    assert data_of(events.event(thin, change("started", "", "pay", entity_id=None), "flow.started")) == IDS


async def test_fields_choose_parts_of_the_payload(events: IntegrationEvents) -> None:
    def payload(registration: Integration, given: Any) -> object:
        record = change("set", "pay", "pay", payload=given)
        return data_of(events.event(registration, record, "flow.set", flow=FLOW)).get("payload", "absent")

    given = {"sum": 5, "customer": {"name": "Ada", "iban": "DE02"}}
    only = integration(fields=("/customer/name",))
    assert payload(only, given) == {"customer": {"name": "Ada"}}
    assert payload(only, {"sum": 5}) == {}
    assert payload(only, UNSET) == "absent"
    assert payload(integration(fields=()), given) == {}
    assert payload(integration(), given) == given


async def test_the_end_of_a_state_has_no_data_of_users(events: IntegrationEvents) -> None:
    ended = change("erased", "pay", "pay", status="cleared", payload=UNSET)
    data = data_of(events.event(integration(), ended, "flow.erased", flow=FLOW))
    assert data["status"] == "cleared"
    assert "payload" not in data
    assert "message" not in data


async def test_an_erased_record_makes_an_event_without_the_data(events: IntegrationEvents) -> None:
    sealed = seal(change("set", "pay", "pay", message="secret", entity_id="org"), "", "salt")
    after = structs.replace(sealed.after, payload=UNSET, message=UNSET, entity_id=UNSET)  # type: ignore[type-var]
    erased = structs.replace(sealed, payload=UNSET, salt=UNSET, after=after, payload_revision=0)
    data = data_of(events.event(integration(fields=("/sum",)), erased, "flow.set"))
    assert {"payload", "message", "entityId"}.isdisjoint(data)
    assert events.event_id("payment", erased) == events.event_id("payment", sealed)


async def test_a_missing_payload_is_no_payload_that_is_absent(events: IntegrationEvents) -> None:
    named = as_stored(structs.replace(PAY, payload_revision=0))
    with pytest.raises(UndeliverableEventError) as refusal:
        events.event(integration(), named, "flow.transition")
    assert refusal.value.reason == "internal"
    assert data_of(events.event(integration(thin=True), named, "flow.transition")) == IDS


async def test_the_event_of_a_pseudonymised_actor_names_the_pseudonym(events: IntegrationEvents) -> None:
    record = structs.replace(samples.full_record(), payload_revision=UNSET)
    assert data_of(events.event(integration(), record, "flow.transition"))["actor"] == "bob"
    renamed = without_person(record, "bob")
    event = events.event(integration(), renamed, "flow.transition")
    assert data_of(event)["actor"] == renamed.actor != "bob"
    assert b"bob" not in event.body


async def test_an_event_never_names_people_beside_actor_and_owner(events: IntegrationEvents) -> None:
    record = samples.record(samples.peopled(at_step("pay"), "bob", "cleo"))
    body = events.event(integration(), record, "flow.transition", flow=FLOW).body
    assert b"bob" not in body
    assert b"cleo" not in body


async def test_a_large_event_is_reduced_to_its_ids() -> None:
    events = await made(max_bytes=600)
    large = change("set", "pay", "pay", payload={"text": "x" * 600})
    event = events.event(integration(), large, "flow.set", flow=FLOW, replay=True)
    assert data_of(event) == {**IDS, "truncated": True}
    assert json.decode(event.body)["replay"] is True
    fitting = events.event(integration(fields=("/sum",)), large, "flow.set", flow=FLOW)
    assert "truncated" not in data_of(fitting)


async def test_an_event_may_be_as_large_as_the_limit() -> None:
    whole = (await made()).event(integration(), PAY, "flow.set")
    size = len(whole.body)
    assert (await made(max_bytes=size)).event(integration(), PAY, "flow.set") == whole
    assert data_of((await made(max_bytes=size - 1)).event(integration(), PAY, "flow.set"))["truncated"]


async def test_an_event_whose_ids_are_too_large_is_refused() -> None:
    events = await made(max_bytes=100)
    for registration in (integration(), integration(thin=True)):
        with pytest.raises(UndeliverableEventError) as refusal:
            events.event(registration, PAY, "flow.set")
        assert refusal.value.reason == "too_large"


@pytest.mark.parametrize("event_type", get_args(EventType))
async def test_a_sample_has_the_shape_of_the_registration(
    events: IntegrationEvents, event_type: EventType
) -> None:
    now = datetime.now(UTC)
    full, thin = (events.sample(integration(thin=thin), event_type, now) for thin in (False, True))
    assert full.id != thin.id
    real = json.decode(events.event(integration(), PAY, event_type, flow=FLOW).body)
    shown = json.decode(full.body)
    assert shown.pop("test") is True
    assert shown.keys() == real.keys()
    assert shown["data"].keys() == real["data"].keys() - {"message"}
    assert data_of(thin).keys() == IDS.keys()
    assert parsed(full).get_type() == event_type
    assert data_of(events.sample(integration(fields=("/sum",)), event_type, now))["payload"] == {}


def test_an_id_needs_the_secret() -> None:
    with pytest.raises(RuntimeError):
        IntegrationEvents(FakeSecretStore()).event_id("payment", PAY)


async def test_the_secret_is_read_once() -> None:
    events = IntegrationEvents(FakeSecretStore())
    await events.prepare()
    first = events.event_id("payment", PAY)
    await events.prepare()
    assert events.event_id("payment", PAY) == first


async def test_another_secret_makes_other_ids() -> None:
    first, second = await made(b"a" * 32), await made(b"b" * 32)
    assert first.event_id("payment", PAY) != second.event_id("payment", PAY)


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
MOMENTS = st.integers(0, 2**41).map(lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms))
NAMED = st.tuples(TEXTS, TEXTS, TEXTS, MOMENTS)


@pytest.fixture(scope="module")
async def shared_events() -> IntegrationEvents:
    return await made()


def id_of(events: IntegrationEvents, named: tuple[str, str, str, datetime]) -> str:
    alias, record_id, commit_id, at = named
    record = structs.replace(PAY, id=record_id, commit_id=commit_id, timestamp=at)
    return events.event_id(alias, record)


@given(one=NAMED, other=NAMED)
def test_ids(
    shared_events: IntegrationEvents,
    one: tuple[str, str, str, datetime],
    other: tuple[str, str, str, datetime],
) -> None:
    first, second = id_of(shared_events, one), id_of(shared_events, other)
    assert first == id_of(shared_events, one)
    assert (first == second) == (one == other)
    assert "." not in first
    uuid = UUID(first.removeprefix("evt_"))
    assert first == f"evt_{uuid}"
    assert (uuid.version, uuid.variant) == (7, "specified in RFC 4122")
    assert uuid.int >> 80 == round(one[3].timestamp() * 1000)
    if one[3] < other[3]:
        assert first < second


@given(st.tuples(TEXTS, TEXTS, TEXTS), MOMENTS)
def test_the_parts_of_an_id_do_not_run_together(
    shared_events: IntegrationEvents, names: tuple[str, str, str], at: datetime
) -> None:
    alias, record_id, commit_id = names
    shifted = (alias + record_id[:1], record_id[1:], commit_id)
    same = shifted == names
    first, second = id_of(shared_events, (*names, at)), id_of(shared_events, (*shifted, at))
    assert (first == second) == same
