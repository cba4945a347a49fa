"""The contract of DeadLetters."""

import asyncio
from datetime import timedelta

import pytest
from msgspec import structs

from app.contracts.deliveries import DeadLetter, DeadLetterFilter, DeliveryAttempt
from app.contracts.ports.deliveries import DeadLetters
from app.contracts.state import StateId
from models.database import Database
from models.integrations.letters import MongoDeadLetters
from tests.support.fake_deliveries import FakeDeadLetters
from tests.support.long_form import form
from tests.support.samples import T0

PORTS = (DeadLetters,)
ADA, BOB = StateId("loop", "ada"), StateId("pay", "bob", "e-1")
MINUTE = timedelta(minutes=1)


@pytest.fixture
def letters(database: Database | None) -> DeadLetters:
    return FakeDeadLetters() if database is None else MongoDeadLetters(database)


def letter(n: int = 1, alias: str = "pay", state_id: StateId = ADA) -> DeadLetter:
    return DeadLetter(
        id=f"evt_{n:03}",
        alias=alias,
        state_id=state_id,
        epoch="e",
        revision=n,
        type="flow.step.entered",
        at=T0,
        died_at=T0 + n * MINUTE,
        reason="receiver",
        detail="it answered 500",
    )


FULL = structs.replace(
    letter(9, state_id=BOB),
    event={"id": "evt_9", "data": {"$ref": "#/a", "payload": {"x": [1, None]}}},
    edited_by="root",
    attempts=(DeliveryAttempt(at=T0, duration_ms=1.5, reason="internal", status=200, error="e", body="{}"),)
    * 2,
    redelivering=True,
)

MANY = [
    structs.replace(
        letter(n, ("pay", "mail")[n % 2], (ADA, BOB)[n // 2 % 2]),
        reason=("receiver", "internal", "too_large")[n % 3],
        type=("flow.started", "flow.completed")[n // 3 % 2],
    )
    for n in range(40)
]
FILTERS = [
    DeadLetterFilter(),
    DeadLetterFilter(service="pay"),
    DeadLetterFilter(service="pa"),
    DeadLetterFilter(reason="internal"),
    DeadLetterFilter(service="mail", type="flow.started", reason="receiver"),
    DeadLetterFilter(flow_id="pay"),
    DeadLetterFilter(user_id="ada", service="pay"),
    DeadLetterFilter(entity_id="e-1", since=T0 + 7 * MINUTE),
    DeadLetterFilter(since=T0 + 5 * MINUTE, until=T0 + 9 * MINUTE),
    DeadLetterFilter(service="pay", since=T0 + 4 * MINUTE, until=T0 + 20 * MINUTE, reason="receiver"),
    DeadLetterFilter(service="pay", until=T0 + 6 * MINUTE),
    DeadLetterFilter(ids=("evt_002", "evt_003", "evt_038", "evt_999")),
    DeadLetterFilter(service="pay", ids=("evt_002", "evt_003", "evt_038"), since=T0 + 3 * MINUTE),
    DeadLetterFilter(ids=()),
    DeadLetterFilter(since=T0 + 9 * MINUTE, until=T0 + 9 * MINUTE),
]


def matches(only: DeadLetterFilter, one: DeadLetter) -> bool:
    """The filter, member for member."""
    values = {
        "service": one.alias,
        "reason": one.reason,
        "type": one.type,
        "flow_id": one.state_id.flow_id,
        "user_id": one.state_id.user_id,
        "entity_id": one.state_id.instance_id,
    }
    return (
        all(getattr(only, name) in (None, value) for name, value in values.items())
        and (only.since or one.died_at) <= one.died_at < (only.until or one.died_at + MINUTE)
        and (only.ids is None or one.id in only.ids)
    )


async def found(letters: DeadLetters, only: DeadLetterFilter, limit: int) -> list[str]:
    """The ids on all pages."""
    ids: list[str] = []
    after: str | None = None
    while True:
        page = await letters.find(only, after, limit)
        assert len(page.items) <= limit
        ids += [one.id for one in page.items]
        if page.next is None:
            return ids
        after = page.next


async def test_a_letter_is_stored_replaced_and_removed(letters: DeadLetters) -> None:
    assert await letters.get("pay", "evt_009") is None
    assert not await letters.replace(FULL)
    assert await letters.get("pay", "evt_009") is None
    await letters.add([])
    await asyncio.gather(*(letters.add([FULL, letter()]) for _ in range(4)))
    assert await letters.get("pay", "evt_009") == FULL
    assert await letters.get("pay", "evt_001") == letter()
    assert await letters.get("mail", "evt_009") is None
    edited = structs.replace(FULL, event={"id": "evt_9"}, edited_by="eve", redelivering=False)
    assert await letters.replace(edited)
    assert await letters.get("pay", "evt_009") == edited
    await letters.add([FULL])
    assert (await letters.find(DeadLetterFilter(), None, 10)).items == [letter(), FULL]
    assert await letters.delete("mail", ["evt_009"]) == 0
    assert await letters.delete("pay", ["evt_009", "evt_009", "evt_777"]) == 1
    assert await letters.count(DeadLetterFilter()) == 1


PAGES = form("dead letters: sizes of pages", short=(3, 100), long=(1, 3, 100))


@pytest.mark.parametrize("only", FILTERS, ids=repr)
async def test_a_list_and_its_count_agree(letters: DeadLetters, only: DeadLetterFilter) -> None:
    await letters.add(MANY)
    wanted = [one.id for one in MANY if matches(only, one)]
    assert await letters.count(only) == len(wanted)
    for limit in PAGES:
        assert await found(letters, only, limit) == wanted


async def test_letters_of_one_moment_are_each_found_once(letters: DeadLetters) -> None:
    await letters.add([structs.replace(one, died_at=T0) for one in MANY])
    everything, mine = DeadLetterFilter(), DeadLetterFilter(service="pay")
    assert sorted(await found(letters, everything, 3)) == [one.id for one in MANY]
    assert await found(letters, mine, 3) == [one.id for one in MANY if one.alias == "pay"]


@pytest.mark.parametrize("only", [DeadLetterFilter(), DeadLetterFilter(service="pay")], ids=repr)
async def test_pages_are_complete_while_letters_are_removed_and_added(
    letters: DeadLetters, only: DeadLetterFilter
) -> None:
    await letters.add([letter(n) for n in range(20)])
    first = await letters.find(only, None, 5)
    await letters.delete("pay", [one.id for one in first.items])
    second = await letters.find(only, first.next, 5)
    assert [one.revision for one in second.items] == [5, 6, 7, 8, 9]
    await letters.delete("pay", ["evt_004", "evt_011", "evt_012"])
    await letters.add([letter(20)])
    third = await letters.find(only, second.next, 100)
    assert [one.revision for one in third.items] == [10, 13, 14, 15, 16, 17, 18, 19, 20]
    assert third.next is None


async def test_a_place_among_the_letters_of_another_integration_shows_none_of_them(
    letters: DeadLetters,
) -> None:
    await letters.add([letter(1, "mail"), letter(2, "pay")])
    page = await letters.find(DeadLetterFilter(service="pay"), "a", 10)
    assert [one.alias for one in page.items] == ["pay"]


async def test_the_letters_of_a_state_are_read_in_pages(letters: DeadLetters) -> None:
    await letters.add([letter(1), letter(2, "mail"), letter(3, "mail", BOB), letter(4, "pay", BOB)])
    first = await letters.find_of_state(BOB, None, 1)
    assert first.items == [letter(3, "mail", BOB)]
    second = await letters.find_of_state(BOB, first.next, 2)
    assert (second.items, second.next) == ([letter(4, "pay", BOB)], None)


async def test_letters_end_with_their_integration_their_state_and_their_time(letters: DeadLetters) -> None:
    await letters.add([letter(1), letter(2, "mail"), letter(3, "mail", BOB), letter(4), letter(5, "mail")])
    assert await letters.delete_of_state(BOB) == 1
    assert await letters.delete_of_integration("pay") == 2
    assert await letters.delete_of_integration("pay") == 0
    assert await letters.remove_expired(T0 + 2 * MINUTE) == 0
    assert await letters.remove_expired(T0 + 3 * MINUTE) == 1
    assert await found(letters, DeadLetterFilter(), 10) == ["evt_005"]
