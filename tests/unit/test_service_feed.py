"""The deliveries of an integration, as it reads them, over fakes."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET, structs
from sse_starlette import ServerSentEvent

from app.auth.tokens import TokenVerifier
from app.contracts.callers import ADMIN, Caller, service_caller
from app.contracts.deliveries import LoggedDelivery
from app.contracts.errors import (
    AuthenticationRequiredError,
    InsufficientPermissionsError,
    ServiceNotFoundError,
)
from app.contracts.record import HistoryRecord
from app.contracts.state import StateId
from app.http.routes.service_feed import ServiceEventStream, feed_item
from app.services.integrations import feed
from app.services.integrations.feed import CHUNK_SIZE, DeliveryFeed, FeedPage
from tests.support.integrations import checkout_dict, integration
from tests.support.rig import Rig

VERIFIER = TokenVerifier(key="k" * 32, algorithms=["HS256"])
ADA = StateId("checkout", "ada")


class FeedRig(Rig):
    """A rig with the checkout and a service ``payment`` whose deliveries are logged by hand.

    It is disabled, so that no dispatcher delivers.
    """

    @property
    def feed(self) -> DeliveryFeed:
        return self.service.integrations.feed

    async def prepare(self) -> None:
        await self.service.create_flow(checkout_dict())
        await self.service.integrations.registry.add(integration(enabled=False))
        await self.service.integrations.events.prepare()

    async def changes(self, count: int, **payload: Any) -> list[HistoryRecord]:
        """Start a state and change it until it has ``count`` records in the history."""
        async with self.service:
            await self.flows.start_flow("ada", "checkout")
            await self.flows.execute_transition("ada", "checkout", "order", payload or {"sum": 5})
            for _ in range(count - 2):
                await self.flows.execute_transition("ada", "checkout", "again")
            assert await self.service.background.relay.drain(5)
        return await self.records()

    async def records(self) -> list[HistoryRecord]:
        return await self.flows.get_flow_history("ada", "checkout")

    async def log(self, *records: HistoryRecord, **changes: Any) -> None:
        """Append a delivery of each record, as a dispatcher does."""
        events = self.service.integrations.events
        entries = [
            LoggedDelivery(
                id=events.event_id("payment", record),
                alias="payment",
                state_id=ADA,
                epoch=record.epoch,
                revision=record.revision,
                type="flow.transition",
                at=record.timestamp,
                delivered_at=self.clock.now(),
                transports=("pull",),
            )
            for record in records
        ]
        await self.delivery_log.append("payment", [structs.replace(entry, **changes) for entry in entries])

    async def read(self, **selection: int) -> FeedPage:
        return await self.feed.read("payment", service_caller("payment"), **selection)

    async def trim(self, before: int) -> None:
        """Remove the deliveries before a number, as their age does."""
        old, end = self.clock.now() - timedelta(days=9), self.clock.now() - timedelta(days=1)
        entries = self.delivery_log.entries["payment"]
        self.delivery_log.entries["payment"] = [
            structs.replace(entry, delivered_at=old) if entry.sequence < before else entry
            for entry in entries
        ]
        await self.delivery_log.remove_expired(end)


@pytest.fixture
async def rig() -> FeedRig:
    made = FeedRig()
    await made.prepare()
    return made


def numbers(page: FeedPage) -> list[int]:
    return [item.sequence for item in page.items]


async def test_events_are_made_anew_of_the_history(rig: FeedRig) -> None:
    records = await rig.changes(3)
    await rig.log(*records)
    page = await rig.read()
    assert (numbers(page), page.next, page.first) == ([1, 2, 3], 3, None)
    for item, record in zip(page.items, records, strict=True):
        event = json.loads(item.event or b"")
        assert event["id"] == item.id
        assert event["type"] == item.type == "flow.transition"
        assert event["data"]["revision"] == record.revision
    data = [json.loads(item.event or b"")["data"] for item in page.items]
    assert [each.get("payload") for each in data] == [None, {"sum": 5}, {"sum": 5}], "also one that is named"
    assert [each["service"] for each in data] == ["user", "payment", "payment"]


async def test_pages_continue_where_the_one_before_ended(rig: FeedRig) -> None:
    records = await rig.changes(2)
    await rig.log(*(records[0] for _ in range(CHUNK_SIZE + 5)))
    first = await rig.read(limit=CHUNK_SIZE + 2)
    assert numbers(first) == list(range(1, CHUNK_SIZE + 3))
    second = await rig.read(after=first.next)
    assert (numbers(second), second.next) == ([CHUNK_SIZE + 3, CHUNK_SIZE + 4, CHUNK_SIZE + 5], 55)
    end = await rig.read(after=second.next)
    assert (numbers(end), end.next, end.first) == ([], 55, None)


async def test_large_events_end_a_page(rig: FeedRig) -> None:
    records = await rig.changes(2, text="x" * 60_000)
    await rig.log(*(records[1] for _ in range(40)))
    found: list[int] = []
    sizes = []
    while True:
        page = await rig.read(after=len(found))
        if not page.items:
            break
        sizes.append(len(page.items))
        found += numbers(page)
    assert found == list(range(1, 41))
    assert max(sizes) < 20


async def test_an_event_whose_record_is_in_the_outbox_is_complete(rig: FeedRig) -> None:
    await rig.changes(2)
    await rig.make().as_trusted().execute_transition("ada", "checkout", "again")  # its relay does not run
    records = await rig.records()
    assert rig.history.records.keys() < {record.id for record in records}
    await rig.log(*records)
    assert [json.loads(item.event or b"")["data"].get("payload") for item in (await rig.read()).items] == [
        None,
        {"sum": 5},
        {"sum": 5},
    ]


async def test_events_that_cannot_be_made_are_gone(rig: FeedRig) -> None:
    records = await rig.changes(2)
    await rig.log(*records)
    await rig.log(records[0], revision=99)
    await rig.log(records[0], id="evt_of_another_commit")
    page = await rig.read()
    assert [item.event is None for item in page.items] == [False, False, True, True]
    assert [feed_item(item).get("gone") for item in page.items] == [None, None, True, True]
    assert [("event" in feed_item(item)) for item in page.items] == [True, True, False, False]


async def test_a_replay_is_marked(rig: FeedRig) -> None:
    records = await rig.changes(2)
    await rig.log(records[0], replay=True)
    (item,) = (await rig.read()).items
    assert json.loads(item.event or b"")["replay"] is True


@pytest.mark.parametrize(
    ("after", "first", "following"), [(0, 3, 4), (1, 3, 4), (2, None, 4), (3, None, 4), (9, 3, 2)]
)
async def test_deliveries_that_are_not_stored_any_more(
    rig: FeedRig, after: int, first: int | None, following: int
) -> None:
    records = await rig.changes(2)
    await rig.log(*records, *records)
    await rig.trim(3)
    page = await rig.read(after=after)
    assert (page.first, page.next) == (first, following)


@pytest.mark.parametrize(("after", "first", "following"), [(0, 3, 2), (1, 3, 2), (2, None, 2), (5, 3, 2)])
async def test_a_log_that_was_removed_completely(
    rig: FeedRig, after: int, first: int | None, following: int
) -> None:
    await rig.log(*await rig.changes(2))
    await rig.trim(3)
    page = await rig.read(after=after)
    assert (list(page.items), page.first, page.next) == ([], first, following)


async def test_deliveries_of_an_erased_state_are_not_missing(rig: FeedRig) -> None:
    records = await rig.changes(2)
    await rig.log(*records)
    await rig.delivery_log.delete_of_state(ADA)
    page = await rig.read()
    assert (list(page.items), page.first, page.next) == ([], None, 0)
    await rig.log(records[0])
    page = await rig.read()
    assert (numbers(page), page.first, page.next) == ([3], None, 3)


async def test_only_the_service_itself_and_administrators_may_read(rig: FeedRig) -> None:
    assert (await rig.feed.read("payment", Caller("root", scopes=frozenset({ADMIN})))).items == []
    for alias in ("payment", "unknown"):
        for caller in (service_caller("user"), Caller("ada")):
            with pytest.raises(InsufficientPermissionsError):
                await rig.feed.read(alias, caller)
    with pytest.raises(ServiceNotFoundError):
        await rig.feed.read("unknown", service_caller("unknown"))


def stream_of(rig: FeedRig, after: int = 0, seconds: float = 60) -> ServiceEventStream:
    caller = service_caller("payment", expires_at=time.time() + seconds)
    return ServiceEventStream(rig.feed, VERIFIER, "payment", caller, after)


async def taken(events: AsyncIterator[ServerSentEvent], count: int) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    while len(found) < count:
        event = await anext(events)
        if event.event is not None:
            found.append((event.event, event.id))
    return found


async def test_readers_are_woken_by_deliveries_of_this_worker(rig: FeedRig) -> None:
    first, other = rig.feed.next_append("payment"), rig.feed.next_append("user")
    assert rig.feed.next_append("payment") is first
    rig.feed.notify("payment")
    await rig.feed.wait(first)
    assert (first.is_set(), other.is_set()) == (True, False)
    assert not rig.feed.next_append("payment").is_set()


async def test_a_stream_continues_after_a_position(rig: FeedRig) -> None:
    records = await rig.changes(2)
    await rig.log(*records)
    events = stream_of(rig, after=1).events()
    assert await taken(events, 1) == [("service-event", "2")]
    await rig.log(records[0])
    assert await taken(events, 1) == [("service-event", "3")]


async def test_a_stream_reads_what_other_workers_append(rig: FeedRig) -> None:
    records = await rig.changes(2)
    events = stream_of(rig).events()
    waiting = asyncio.ensure_future(taken(events, 1))
    await rig.log(records[0])
    assert await waiting == [("service-event", "1")]


async def test_a_stream_reports_missing_deliveries_once(rig: FeedRig) -> None:
    records = await rig.changes(2)
    await rig.log(*records, *records)
    await rig.trim(3)
    events = stream_of(rig).events()
    assert await taken(events, 3) == [
        ("service-events-missing", None),
        ("service-event", "3"),
        ("service-event", "4"),
    ]


async def test_a_stream_ends_with_the_token(rig: FeedRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "POLL_SECONDS", 0.05)
    sent = [event async for event in stream_of(rig, seconds=0.01).events()]
    assert sent[-1].event == "flow-error"
    assert json.loads(str(sent[-1].data))["code"] == "AUTHENTICATION_REQUIRED"


async def test_a_stream_ends_with_its_key(rig: FeedRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.http.stream_caller.RENEWAL_SECONDS", 0)
    monkeypatch.setattr(feed, "POLL_SECONDS", 0.05)
    await rig.log(*await rig.changes(2))
    caller = service_caller("payment", expires_at=time.time() + 60, credential="key-1")
    checked: list[Caller] = []

    class Keys:
        """Keys of which one is valid twice."""

        async def renew(self, caller: Caller) -> Caller:
            checked.append(caller)
            if len(checked) == 3:
                raise AuthenticationRequiredError("The API key was revoked")
            return caller

    verifier: Any = Keys()
    stream = ServiceEventStream(rig.feed, verifier, "payment", caller, 0)
    sent = [event async for event in stream.events()]
    assert [event.event for event in sent] == ["service-event", "service-event", "flow-error"]
    assert checked == [caller] * 3
    stream.close()


async def test_a_stream_ends_with_the_registration(rig: FeedRig) -> None:
    stream = stream_of(rig)
    await rig.registrations.delete("payment")
    await rig.service.integrations.registry.announce("payment")
    sent = [event async for event in stream.events()]
    assert json.loads(str(sent[-1].data))["code"] == "SERVICE_NOT_FOUND"
    stream.close()
    stream.close()


async def test_an_erased_payload_is_not_in_the_event_any_more(rig: FeedRig) -> None:
    records = await rig.changes(2)
    await rig.log(*records)
    for record in records:
        stored = rig.history.records[record.id]
        assert stored.after is not UNSET
        after = structs.replace(stored.after, payload=UNSET)
        rig.history.records[record.id] = structs.replace(stored, after=after, payload=UNSET, salt=UNSET)
    page = await rig.read()
    assert all("payload" not in json.loads(item.event or b"")["data"] for item in page.items)
