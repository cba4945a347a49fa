"""The use cases about dead letters."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET, structs

from app.contracts.callers import ADMIN, READ, SERVICE, Caller
from app.contracts.deliveries import (
    DeadLetter,
    DeadLetterFilter,
    DeliveryAttempt,
    LaneId,
    LanePosition,
    LoggedDelivery,
)
from app.contracts.errors import (
    DeliveryNotFoundError,
    InsufficientPermissionsError,
    InvalidRequestError,
)
from app.contracts.state import StateId
from app.services.integrations.letters import DeadLetterAdministration, LettersResult
from tests.support.rig import Rig, rig
from tests.support.samples import T0

ROOT = Caller("root", scopes=frozenset({ADMIN}))
ITSELF = Caller("service:svc", scopes=frozenset({SERVICE}), service="svc")
OTHERS = [
    Caller("ada"),
    Caller("shop", scopes=frozenset({SERVICE})),
    Caller("service:other", scopes=frozenset({SERVICE}), service="other"),
]


def letter(n: int, alias: str = "svc", **changes: Any) -> DeadLetter:
    event_id = f"evt_{alias}-{n}"
    return structs.replace(
        DeadLetter(
            id=event_id,
            alias=alias,
            state_id=StateId("loop", f"user-{n}"),
            epoch="e",
            revision=n,
            type="flow.transition",
            at=T0,
            died_at=T0 + timedelta(seconds=n),
            reason="receiver",
            detail="the receiver answered 500",
            event={"id": event_id, "specversion": "1.0", "data": {"n": n}},
            attempts=(DeliveryAttempt(T0, 1.5, "receiver", 500, "it answered 500"),),
        ),
        **changes,
    )


async def made(*letters: DeadLetter) -> tuple[Rig, DeadLetterAdministration]:
    there = await rig()
    there.clock.time = T0 + timedelta(hours=1)
    await there.letters.add(letters)
    return there, there.service.integrations.letters


async def test_the_filter_of_a_list_selects_what_the_list_showed() -> None:
    there, office = await made(*(letter(n) for n in range(5)), letter(9, reason="too_large"))
    found = await office.list_letters(
        DeadLetterFilter(service="svc", reason="receiver"), after=None, limit=2, caller=ROOT
    )
    assert [each.id for each in found.page.items] == ["evt_svc-0", "evt_svc-1"]
    there.clock.advance(seconds=1)
    await there.letters.add([letter(7, died_at=there.clock.now())])  # dies after the list
    # So does this one on a worker whose clock is behind, or one that needs a while to store it.
    await there.letters.add([letter(8, died_at=there.clock.now() - timedelta(seconds=1.9))])
    assert await office.redeliver(found.only, ROOT, dry_run=True) == LettersResult(5, 5)
    assert there.lanes.lanes == {}, "a dry run changes nothing"
    assert await office.redeliver(found.only, ROOT, dry_run=False) == LettersResult(5, 5)
    assert sorted(lane.letter or "" for lane in there.lanes.lanes.values()) == [
        f"evt_svc-{n}" for n in range(5)
    ]
    redelivering = {each.id for each in there.letters.letters.values() if each.redelivering}
    assert redelivering == {f"evt_svc-{n}" for n in range(5)}


async def test_a_redelivery_is_requested_once() -> None:
    there, office = await made(letter(1), letter(2, event=UNSET, reason="expired"))
    only = DeadLetterFilter(service="svc")
    assert await office.redeliver(only, ROOT, dry_run=False) == LettersResult(2, 1, 1)
    jobs = dict(there.lanes.lanes)
    assert await office.redeliver(only, ROOT, dry_run=False) == LettersResult(2, 0, 2)
    assert there.lanes.lanes == jobs
    (lane,) = jobs.values()
    assert lane.id == LaneId("svc", StateId("loop", "user-1"), "letter-evt_svc-1")
    assert lane.due_at == there.clock.now()


async def test_a_letter_of_our_own_failure_gets_its_event_with_its_redelivery() -> None:
    there, office = await made(
        letter(1, event=UNSET, reason="internal"), letter(2, event=UNSET, reason="too_large")
    )
    assert await office.redeliver(DeadLetterFilter(service="svc"), ROOT, dry_run=False) == LettersResult(2, 2)
    assert sorted(lane.letter or "" for lane in there.lanes.lanes.values()) == ["evt_svc-1", "evt_svc-2"]


async def test_a_redelivery_that_a_crash_ended_goes_on() -> None:
    there, office = await made(letter(1, redelivering=True))  # marked, and no job stored
    await office.redeliver(DeadLetterFilter(service="svc"), ROOT, dry_run=False)
    assert [lane.letter for lane in there.lanes.lanes.values()] == ["evt_svc-1"]


async def test_letters_are_dropped() -> None:
    there, office = await made(*(letter(n) for n in range(3)), letter(1, "other"))
    only = DeadLetterFilter(service="svc", ids=("evt_svc-0", "evt_svc-2"))
    assert await office.drop(only, ROOT, dry_run=True) == LettersResult(2, 2)
    assert len(there.letters.letters) == 4
    assert await office.drop(only, ROOT, dry_run=False) == LettersResult(2, 2)
    assert {each.id for each in there.letters.letters.values()} == {"evt_svc-1", "evt_other-1"}


async def test_an_edit_names_every_fault() -> None:
    _, office = await made(letter(1))
    with pytest.raises(InvalidRequestError) as refused:
        await office.edit("svc", "evt_svc-1", {"id": "evt_other", "n": 2**70}, ROOT)
    assert [fault.pointer for fault in refused.value.faults] == [
        "/event/n",
        "/event/id",
        "/event/specversion",
    ]
    whole = {"id": "evt_svc-1", "specversion": "1.0"}
    with pytest.raises(InvalidRequestError) as refused:
        await office.edit("svc", "evt_svc-1", {**whole, "text": "x" * 300_000}, ROOT)
    assert [fault.pointer for fault in refused.value.faults] == ["/event"]
    edited = await office.edit("svc", "evt_svc-1", {**whole, "data": {"mended": True}}, ROOT)
    assert (edited.event, edited.edited_by) == ({**whole, "data": {"mended": True}}, "root")
    assert await office.read("svc", "evt_svc-1", ROOT) == edited
    with pytest.raises(DeliveryNotFoundError):
        await office.edit("svc", "evt_svc-2", whole, ROOT)
    with pytest.raises(InsufficientPermissionsError):
        await office.edit("svc", "evt_svc-1", whole, ITSELF)


async def test_a_delivery_is_found_in_the_log_and_among_the_letters() -> None:
    there, office = await made(letter(1))
    logged = LoggedDelivery(
        id="evt_svc-1",
        alias="svc",
        state_id=StateId("loop", "user-1"),
        epoch="e",
        revision=1,
        type="flow.transition",
        at=T0,
        delivered_at=T0,
        transports=("webhook", "pull"),
    )
    await there.delivery_log.append("svc", [logged, structs.replace(logged, id="evt_svc-2")])
    found = await office.find_delivery("svc", "evt_svc-1", ROOT)
    assert (found.letter, found.logged and found.logged.sequence) == (letter(1), 1)
    found = await office.find_delivery("svc", "evt_svc-2", ROOT)
    assert (found.letter, found.logged and found.logged.sequence) == (None, 2)
    for alias, event_id in (("svc", "evt_svc-3"), ("other", "evt_svc-2")):
        with pytest.raises(DeliveryNotFoundError):
            await office.find_delivery(alias, event_id, ROOT)


async def test_a_service_has_its_own_letters_alone() -> None:
    _, office = await made(letter(1), letter(2, "other"))
    found = await office.list_letters(DeadLetterFilter(), after=None, limit=10, caller=ITSELF)
    assert [each.id for each in found.page.items] == ["evt_svc-1"]
    assert await office.redeliver(DeadLetterFilter(), ITSELF, dry_run=True) == LettersResult(1, 1)
    assert await office.drop(DeadLetterFilter(), ITSELF, dry_run=True) == LettersResult(1, 1)
    for only in (DeadLetterFilter(service="other"), DeadLetterFilter(service="svc")):
        for caller in [*OTHERS[:2], *([ITSELF] if only.service == "other" else [OTHERS[2]])]:
            with pytest.raises(InsufficientPermissionsError):
                await office.list_letters(only, after=None, limit=10, caller=caller)
            with pytest.raises(InsufficientPermissionsError):
                await office.redeliver(only, caller, dry_run=False)
            with pytest.raises(InsufficientPermissionsError):
                await office.drop(only, caller, dry_run=False)
            with pytest.raises(InsufficientPermissionsError):
                await office.list_failing(str(only.service), after=None, limit=10, caller=caller)
            with pytest.raises(InsufficientPermissionsError):
                await office.read(str(only.service), "evt_nowhere", caller)


async def test_failing_states_are_listed() -> None:
    there, office = await made()
    lane_id = LaneId("svc", StateId("loop", "ada"))
    now = there.clock.now()
    await there.lanes.add_jobs(
        [
            structs.replace(each, failures=failures)
            for each, failures in (
                (_lane(lane_id, now), 2),
                (_lane(LaneId("svc", StateId("loop", "bob")), now), 0),
            )
        ]
    )
    page = await office.list_failing("svc", after=None, limit=10, caller=ITSELF)
    assert [lane.id for lane in page.items] == [lane_id]


def _lane(lane_id: LaneId, due_at: Any) -> Any:
    from app.contracts.deliveries import Lane

    return Lane(id=lane_id, since=T0, newest=LanePosition("e", 1), due_at=due_at)


async def test_a_list_ends_before_letters_that_others_may_still_store() -> None:
    there, office = await made(letter(1))
    now = there.clock.now()
    await there.letters.add([letter(2, died_at=now - timedelta(seconds=1)), letter(3, died_at=now)])
    for until in (None, now - timedelta(seconds=1), now + timedelta(hours=1)):
        found = await office.list_letters(DeadLetterFilter(until=until), after=None, limit=10, caller=ROOT)
        assert [each.id for each in found.page.items] == ["evt_svc-1"]
        assert found.only.until == now - timedelta(seconds=1)


async def test_support_staff_do_not_read_the_words_of_receivers() -> None:
    said = "the receiver refused the event for good: account DE02 is closed"
    _, letters = await made(letter(1, detail=said), letter(2, detail="the receiver answered 500"))
    support = Caller("sue", scopes=frozenset({READ}))
    for caller, first in ((ROOT, said), (ITSELF, said), (support, said.partition(":")[0])):
        found = await letters.list_letters(
            DeadLetterFilter(service="svc"), after=None, limit=9, caller=caller
        )
        assert [each.detail for each in found.page.items] == [first, "the receiver answered 500"]
