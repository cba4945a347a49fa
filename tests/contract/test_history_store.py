"""The contract of HistoryStore."""

from datetime import timedelta

import pytest
from msgspec import UNSET, json, structs

from app.contracts.pages import MAX_PAGE_BYTES, Page
from app.contracts.ports.history import HistoryStore
from app.contracts.pseudonyms import state_without_person, without_person
from app.contracts.record import (
    HistoryFilter,
    HistoryPosition,
    HistoryRecord,
    UnreadableRecord,
    as_stored,
    position_of,
    state_after,
)
from app.contracts.state import StateId
from app.flow.history_chain import is_intact, seal
from models.database import Database
from models.history_store import MongoHistoryStore
from tests.support.fakes import FakeHistoryStore
from tests.support.samples import T0, fresh, moved, peopled, record

PORTS = (HistoryStore,)


@pytest.fixture
def store(database: Database | None) -> HistoryStore:
    return FakeHistoryStore() if database is None else MongoHistoryStore(database)


async def test_appended_records_are_read_exactly(store: HistoryStore) -> None:
    full = structs.replace(record(fresh(entity_id=None, payload={"a": 1})), duration_ms=1.25, client="http")
    bare = structs.replace(
        record(moved(fresh())), payload=UNSET, after=UNSET, request_id=UNSET, success=False, error="X"
    )
    await store.append([full, bare])
    assert (await store.read(StateId("loop", "ada"), None, 10)).items == [full, bare]


async def test_appending_twice_does_not_change_the_first(store: HistoryStore) -> None:
    first = record(fresh(), commit="first")
    assert await store.append([first]) == set()
    displaced = await store.append([record(fresh(), commit="second"), record(moved(fresh()))])
    assert displaced == {first.id}
    assert await store.append([first]) == set()
    assert (await store.read(StateId("loop", "ada"), None, 10)).items == [first, record(moved(fresh()))]


async def test_nothing_to_append(store: HistoryStore) -> None:
    await store.append([])
    assert (await store.read(StateId("loop", "ada"), None, 10)).items == []


async def test_order_is_epoch_revision_id_and_pages_join(store: HistoryStore) -> None:
    whole = []
    for epoch in ("e1", "e2"):
        state = fresh(epoch=epoch)
        for _ in range(12):  # 10 sorts after 9
            whole.append(record(state))
            refused = record(state)
            whole.append(structs.replace(refused, id=f"{refused.id}:x", after=UNSET))
            state = moved(state)
    await store.append(list(reversed(whole)))
    await store.append([record(fresh(user="bob"))])
    assert (await store.read(StateId("loop", "ada"), None, 100)).items == whole
    pages, after = [], None
    while page := (await store.read(StateId("loop", "ada"), after, 5)).items:
        pages += page
        after = position_of(page[-1])
    assert pages == whole


async def test_the_record_of_a_request(store: HistoryStore) -> None:
    made = structs.replace(record(fresh()), request_id="r-9", digest="d")
    other = structs.replace(record(moved(fresh())), request_id="r-9", actor="bob")
    refused = structs.replace(made, id="x", success=False, after=UNSET, request_id="r-8")
    await store.append([made, other, refused])
    before = made.timestamp - timedelta(seconds=1)
    assert await store.get(made.id) == made
    assert await store.get("nowhere") is None
    assert await store.find_request(StateId("loop", "ada"), "ada", "r-9", before) == made
    assert await store.find_request(StateId("loop", "ada"), "bob", "r-9", before) == other
    assert await store.find_request(StateId("loop", "ada"), "ada", "r-9", made.timestamp) is None
    assert await store.find_request(StateId("loop", "ada"), "ada", "r-8", before) is None
    assert await store.find_request(StateId("loop", "bob"), "ada", "r-9", before) is None


@pytest.mark.parametrize(
    ("only", "matching"),
    [
        (HistoryFilter(), [0, 1, 2, 3]),
        (HistoryFilter(since=T0 + timedelta(seconds=1)), [1, 2, 3]),
        (HistoryFilter(until=T0 + timedelta(seconds=2)), [0, 1]),
        (HistoryFilter(since=T0 + timedelta(seconds=1), until=T0 + timedelta(seconds=2)), [1]),
        (HistoryFilter(actor="eve"), [1, 3]),
        (HistoryFilter(success=False), [2]),
        (HistoryFilter(success=True, actor="ada"), [0]),
        (HistoryFilter(transition="fly"), [2]),
        (HistoryFilter(transition="nothing"), []),
    ],
)
async def test_filters(store: HistoryStore, only: HistoryFilter, matching: list[int]) -> None:
    whole, state = [], fresh()
    for n in range(4):
        whole.append(structs.replace(record(state), actor=("ada", "eve")[n % 2]))
        state = moved(state)
    whole[2] = structs.replace(whole[2], success=False, transition="fly", after=UNSET)
    await store.append(whole)
    assert (await store.read(StateId("loop", "ada"), None, 10, only)).items == [whole[n] for n in matching]
    assert [r for r in whole if only.matches(r)] == [whole[n] for n in matching]


async def lives(store: HistoryStore) -> list[HistoryRecord]:
    """Two lives with two commits and a refusal each."""
    whole = []
    for epoch in ("e1", "e2"):
        state = structs.replace(fresh(epoch=epoch, payload={"iban": "DE02"}), message="hi", pause_reason="p")
        first = structs.replace(record(state), salt="s", commitment="c", hash="h", digest="d")
        refused = structs.replace(first, id=f"{first.id}:x", after=UNSET, success=False, kind="refused")
        whole += [first, refused, structs.replace(record(moved(state)), salt="s")]
    await store.append([*whole, record(fresh(user="bob"))])
    return whole


async def test_a_scan_goes_both_ways(store: HistoryStore) -> None:
    whole = await lives(store)
    assert (await store.scan(StateId("loop", "ada"), None, 10)).items == whole
    assert (await store.scan(StateId("loop", "ada"), None, 10, backwards=True)).items == whole[::-1]
    assert (await store.scan(StateId("loop", "ada"), position_of(whole[1]), 2)).items == whole[2:4]
    assert (
        await store.scan(StateId("loop", "ada"), position_of(whole[4]), 3, backwards=True)
    ).items == whole[3:0:-1]


async def test_erasing_removes_entered_data_and_leaves_the_changes(store: HistoryStore) -> None:
    whole = await lives(store)
    refusals = [r for r in whole if r.kind == "refused"]
    assert await store.erase(StateId("loop", "ada"), position_of(whole[5])) == 5
    assert await store.erase(StateId("loop", "nobody"), position_of(whole[5])) == 0
    found = (await store.read(StateId("loop", "ada"), None, 10)).items
    whole = [r for r in whole if r not in refusals]
    assert found[-1] == whole[-1], "the last one is the receipt"
    for before, after in zip(whole[:-1], found[:-1], strict=True):
        assert before.after is not UNSET
        absent = dict.fromkeys(("payload", "message", "entity_id", "pause_reason"), UNSET)
        bare = structs.replace(before.after, **absent)
        members = dict.fromkeys(("payload", "request_id", "digest", "salt"), UNSET)
        assert after == structs.replace(before, after=bare, **members)
    assert (await store.read(StateId("loop", "bob"), None, 10)).items[0].payload is not UNSET


async def test_the_newest_commit(store: HistoryStore) -> None:
    assert await store.newest(StateId("loop", "ada")) is None
    whole = await lives(store)
    refused = structs.replace(whole[4], epoch="e3", id="loop:ada:e3:0:x")
    await store.append([refused])
    assert await store.newest(StateId("loop", "ada")) == whole[5]


async def test_many_records_are_read_at_once_and_missing_ones_left_out(store: HistoryStore) -> None:
    records = await lives(store)
    wanted = [records[0].id, "loop:nobody:e1:0", records[-1].id]
    found = {each.id: each for each in await store.get_many(wanted)}
    assert found == {records[0].id: records[0], records[-1].id: records[-1]}
    assert await store.get_many([]) == []


@pytest.mark.parametrize("backwards", [False, True])
async def test_pages_end_at_a_number_of_bytes_too(store: HistoryStore, backwards: bool) -> None:
    state = fresh(payload={"text": "x" * 150_000})
    whole = [record(state)]
    for size in (100, 150_000, 150_000, 2 * MAX_PAGE_BYTES, 100, 150_000, 100):
        state = moved(state, payload={"text": "x" * size})
        whole.append(record(state))
    await store.append(whole)
    found: list[HistoryRecord | UnreadableRecord] = []
    start = None
    while True:
        if backwards:
            page = await store.scan(StateId("loop", "ada"), start, 100, backwards=True)
            found += page.items
        else:
            read = await store.read(StateId("loop", "ada"), start, 100)
            assert (await store.scan(StateId("loop", "ada"), start, 100)).items == read.items
            page = Page([*read.items], read.next)
            found += page.items
        assert page.items
        assert len(page.items) == 1 or sum(len(json.encode(one)) for one in page.items) < 1.1 * MAX_PAGE_BYTES
        if page.next is None:
            break
        assert page.next == page.items[-1].id
        start = position_of(page.items[-1])
    assert found == (whole[::-1] if backwards else whole)


async def test_a_payload_that_a_record_names_is_stored_once(store: HistoryStore) -> None:
    first = fresh(payload={"a": 1})
    named = structs.replace(record(moved(first)), payload_revision=0)
    await store.append([record(first), named])
    assert (await store.read(StateId("loop", "ada"), None, 10)).items == [record(first), as_stored(named)]
    assert await store.get(named.id) == as_stored(named)


def lives_of_people() -> list[HistoryRecord]:
    """Two commits and a refusal that name bob, and a commit that does not."""
    state = structs.replace(peopled(fresh(payload={"n": 1}), "bob", "cleo"), instance_id="E-1")
    first = seal(record(state), "", "salt-1")
    moved_on = structs.replace(
        record(moved(state)), actor="bob", actor_salt="salt-of-bob", payload_revision=0
    )
    second = seal(moved_on, str(first.hash), "salt-2")
    refused = structs.replace(
        moved_on, id=f"{second.id}:x", kind="refused", success=False, after=UNSET, payload_revision=UNSET
    )
    refused = seal(refused, str(second.hash), "salt-3")
    other = seal(record(moved(state_without_person(moved(state), "bob"))), str(second.hash), "salt-4")
    return [first, second, refused, other]


async def test_the_states_with_records_that_name_a_person(store: HistoryStore) -> None:
    whole = lives_of_people()
    state_id = state_after(whole[0]).id
    plain = record(peopled(fresh("dan"), "cleo"))
    refused = structs.replace(
        record(fresh("eve")), kind="refused", success=False, after=UNSET, actor="bob", actor_salt="salt"
    )
    served = structs.replace(record(fresh("fay")), actor="bob")
    await store.append([*whole, plain, refused, served, record(fresh("bob"))])
    assert await store.ids_naming("bob") == [refused_id := StateId("loop", "eve"), state_id]
    assert await store.ids_naming("cleo") == [StateId("loop", "dan"), state_id]
    assert await store.ids_naming("ada") == []
    assert await store.replace_person(refused_id, "bob", HistoryPosition("e2", 0, "")) == 1
    assert await store.ids_naming("bob") == [state_id]


async def test_a_person_is_replaced_in_the_records_before_a_position(store: HistoryStore) -> None:
    whole = lives_of_people()
    state_id = state_after(whole[0]).id
    beyond = structs.replace(peopled(fresh(epoch="e2"), "bob"), instance_id="E-1")
    elsewhere = record(peopled(fresh("dan"), "bob"))
    later = record(beyond)
    await store.append([*whole, later, elsewhere])
    count = await store.replace_person(state_id, "bob", position_of(whole[3]))
    assert count == 3
    expected = [as_stored(without_person(one, "bob")) for one in whole]
    found = await store.get_many([one.id for one in whole])
    assert sorted(found, key=position_of) == sorted(expected, key=position_of)
    assert all(is_intact(one) for one in found)
    assert await store.get(later.id) == later
    assert await store.get(elsewhere.id) == elsewhere
    assert await store.replace_person(state_id, "bob", position_of(whole[3])) == 0
    assert await store.replace_person(state_id, "eve", position_of(later)) == 0


async def test_a_late_delivery_does_not_bring_a_person_back(store: HistoryStore) -> None:
    whole = lives_of_people()
    await store.append(whole)
    await store.replace_person(state_after(whole[0]).id, "bob", position_of(whole[3]))
    assert await store.append(whole) == set()
    assert await store.ids_naming("bob") == []


async def test_a_person_is_replaced_in_records_that_were_erased(store: HistoryStore) -> None:
    whole = lives_of_people()
    state_id = state_after(whole[0]).id
    await store.append(whole)
    await store.erase(state_id, position_of(whole[3]))
    await store.replace_person(state_id, "bob", position_of(whole[3]))
    first = await store.get(whole[0].id)
    assert first is not None
    assert (first.payload, first.salt, is_intact(first)) == (UNSET, UNSET, True)
    assert await store.ids_naming("bob") == []


async def test_an_unreadable_record_loses_its_people(database: Database | None) -> None:
    if database is None:
        pytest.skip("the fake has no documents")
    store = MongoHistoryStore(database)
    whole = lives_of_people()
    await store.append(whole)
    history = database.collection("flow_history")
    await history.update_one({"_id": whole[0].id}, {"$set": {"revision": "x"}})
    await history.update_one({"_id": whole[1].id}, {"$set": {"after.participants": "bob"}})
    await store.replace_person(state_after(whole[0]).id, "bob", position_of(whole[3]))
    assert await store.ids_naming("bob") == []
    stored = await history.find({"_id": {"$in": [one.id for one in whole]}}).to_list(None)
    assert len(stored) == len(whole)
    assert "bob" not in str(stored)


async def test_the_states_of_a_user_with_records_are_found(store: HistoryStore) -> None:
    users = ("ada", "adam", "ad", "ada;e-1", "ada%")
    states = [fresh(user=user) for user in users] + [
        structs.replace(fresh(user=user), instance_id=entity)
        for user in users
        for entity in ("e-1", "e;2", ":")
    ]
    states.append(fresh(slug="other"))
    await store.append([record(state) for state in states])
    await store.append([record(moved(states[0]))])
    for user in users:
        mine = [state.id for state in states if (state.flow, state.user_id) == ("loop", user)]
        assert await store.ids_of_user("loop", user) == sorted(mine, key=lambda state_id: state_id.key)
    assert await store.ids_of_user("other", "ada") == [StateId("other", "ada")]
    assert await store.ids_of_user("loop", "nobody") == []
