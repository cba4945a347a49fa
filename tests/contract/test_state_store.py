"""The contract of StateStore."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET, structs

from app.contracts.errors import FlowNotFoundError
from app.contracts.people import Participant, PersonSalt
from app.contracts.ports.states import (
    REMEMBERED_REQUESTS,
    DamagedState,
    RunningStates,
    StateFilter,
    StatePage,
    StateStore,
    StoredState,
)
from app.contracts.pseudonyms import state_without_person
from app.contracts.record import Kind, PayloadPlace, as_stored, payload_place, remembered_request
from app.contracts.state import FlowState, StateId
from models.database import Database
from models.states.store import MongoStateStore
from tests.support.fakes import FakeStateStore
from tests.support.samples import T0, fresh, moved, peopled, record

PORTS = (StateStore,)


@pytest.fixture
def store(database: Database | None) -> StateStore:
    return FakeStateStore() if database is None else MongoStateStore(database)


def place(state: FlowState) -> PayloadPlace | None:
    """Where the payload of a state is whose record has it."""
    return payload_place(record(state), None)


async def test_a_committed_state_is_loaded_exactly(store: StateStore) -> None:
    payload = {"n": 1, "f": 1.5, "t": "żółć", "none": None, "list": [True, {"$x": 1, "a.b": {}}], "": 2}
    state = fresh(payload=payload, entity_id=None, service="shop")
    made = record(state, kind="started")
    assert await store.commit(None, made)
    assert await store.load(StateId("loop", "ada")) == StoredState(state, (made,), payload_at=place(state))


async def test_the_last_requests_are_remembered(store: StateStore) -> None:
    state = fresh()
    requests = [structs.replace(record(state), request_id="r-0", digest="d-0")]
    await store.commit(None, requests[0])
    for n in range(1, REMEMBERED_REQUESTS + 5):
        before, state = state, moved(state)
        plain = record(state)
        requests.append(structs.replace(plain, request_id=f"r-{n}", digest=f"d-{n}") if n % 5 else plain)
        await store.commit(before.position, requests[-1])
    stored = await store.load(StateId("loop", "ada"))
    assert stored is not None
    expected = [r for request in requests if (r := remembered_request(request)) is not None]
    assert stored.recent == tuple(expected[-REMEMBERED_REQUESTS:])
    await store.release(requests)
    again = await store.load(StateId("loop", "ada"))
    assert again == StoredState(state, (), stored.recent, payload_at=stored.payload_at)


async def test_absent_fields_stay_absent_and_removed_fields_are_removed(store: StateStore) -> None:
    first = structs.replace(
        fresh(payload={"a": 1}, entity_id="org"), message="hi", previous="b", expires_at=T0
    )
    await store.commit(None, record(first))
    second = moved(first, payload=UNSET, entity_id=UNSET, message=UNSET, previous=UNSET, expires_at=UNSET)
    assert await store.commit(first.position, record(second))
    stored = await store.load(StateId("loop", "ada"))
    assert stored is not None
    assert stored.state == second


async def test_no_state_is_none(store: StateStore) -> None:
    assert await store.load(StateId("loop", "nobody")) is None


async def test_a_second_start_is_refused(store: StateStore) -> None:
    assert await store.commit(None, record(fresh(epoch="e1"), commit="1"))
    assert not await store.commit(None, record(fresh(epoch="e2"), commit="2"))
    stored = await store.load(StateId("loop", "ada"))
    assert stored is not None
    assert stored.state.epoch == "e1"


@pytest.mark.parametrize("stale", [{"revision": 5}, {"epoch": "other"}])
async def test_a_commit_on_another_position_is_refused(store: StateStore, stale: dict[str, object]) -> None:
    state = fresh()
    await store.commit(None, record(state))
    wrong = structs.replace(state, **stale)
    assert not await store.commit(wrong.position, record(moved(wrong)))
    stored = await store.load(StateId("loop", "ada"))
    assert stored is not None
    assert stored.state == state
    assert len(stored.pending) == 1


async def test_of_rivals_one_wins(store: StateStore) -> None:
    state = fresh()
    await store.commit(None, record(state))
    rivals = [record(moved(state, message=str(n)), commit=str(n)) for n in range(10)]
    won = await asyncio.gather(*(store.commit(state.position, rival) for rival in rivals))
    assert sum(won) == 1
    stored = await store.load(StateId("loop", "ada"))
    assert stored is not None
    assert stored.state.message == str(won.index(True))
    assert stored.pending[-1].commit_id == str(won.index(True))


async def test_records_wait_until_they_are_released(store: StateStore) -> None:
    first = fresh()
    second, third = moved(first), moved(moved(first))
    await store.commit(None, record(first))
    await store.commit(first.position, record(second))
    await store.commit(second.position, record(third))
    await store.release([record(first), record(second)])
    stored = await store.load(StateId("loop", "ada"))
    assert stored == StoredState(third, (record(third),), payload_at=place(third))


async def test_an_ended_state_stays_for_its_requests(store: StateStore) -> None:
    state = fresh()
    ended = moved(state, status="cleared")
    await store.commit(None, record(state))
    await store.commit(state.position, record(ended))
    await store.release([record(state), record(ended)])
    assert await store.load(StateId("loop", "ada")) == StoredState(state=ended)
    assert await store.find(StateFilter(user_id="ada"), None, 10, T0) == StatePage([], None)


async def test_a_new_epoch_begins_on_an_ended_state_and_retains_its_outbox(store: StateStore) -> None:
    state = fresh(epoch="e1")
    ended = moved(state, status="cleared")
    again = fresh(epoch="e2")
    await store.commit(None, record(state))
    await store.commit(state.position, record(ended))
    assert await store.commit(ended.position, record(again))
    await store.release([record(state), record(ended)])
    assert await store.load(StateId("loop", "ada")) == StoredState(
        again, (record(again),), payload_at=place(again)
    )


async def test_states_of_a_user_by_flow(store: StateStore) -> None:
    for slug in ("b", "a", "c", "d"):
        await store.commit(None, record(fresh(slug=slug)))
    await store.commit(None, record(fresh(user="bob", slug="a")))
    expired = structs.replace(fresh(slug="e"), expires_at=T0)
    await store.commit(None, record(expired))
    ended = fresh(slug="f")
    await store.commit(None, record(ended))
    await store.commit(ended.position, record(moved(ended, status="cleared")))
    found = await store.find(StateFilter(user_id="ada"), None, 3, T0)
    assert ([state.flow for state in found.states], found.next) == (["a", "b", "c"], "c:ada")
    rest = await store.find(StateFilter(user_id="ada"), "c:ada", 3, T0)
    assert ([state.flow for state in rest.states], rest.next) == (["d"], None)


async def test_expired_states_oldest_first(store: StateStore) -> None:
    for user, seconds in (("late", 5), ("later", 1), ("living", 60)):
        state = structs.replace(fresh(user=user), expires_at=T0 + timedelta(seconds=seconds))
        await store.commit(None, record(state))
    await store.commit(None, record(fresh(user="forever")))
    now = T0 + timedelta(seconds=10)
    assert [s.user_id async for s in store.expired(now)] == ["later", "late"]


async def test_a_paused_state_is_present_whatever_its_time(store: StateStore) -> None:
    """One that a version before 0.5 paused still has ``expires_at``: the sweep stops its clock."""
    stopped = structs.replace(fresh(user="stopped"), status="paused", expiry_left_ms=1000)
    before = structs.replace(fresh(user="before"), status="paused", expires_at=T0)
    for state in (stopped, before):
        await store.commit(None, record(state))
    now = T0 + timedelta(seconds=10)
    assert (await store.find(StateFilter(), None, 10, now)).states == [before, stopped]
    assert await store.list_running("loop", 1, [], 10, now) == [
        StateId("loop", "before"),
        StateId("loop", "stopped"),
    ]
    assert sum(group.count for group in await store.count_running_by_step("loop", 1, 10, now)) == 2
    assert [state async for state in store.expired(now)] == [before]
    resumed = moved(stopped, status="active", expires_at=now, expiry_left_ms=UNSET)
    assert await store.commit(stopped.position, record(resumed))
    found = await store.load(StateId("loop", "stopped"))
    assert found is not None
    assert found.state == resumed


async def test_undelivered_states(store: StateStore) -> None:
    waiting, delivered = fresh(user="waiting"), fresh(user="delivered")
    recent = moved(fresh(user="recent"))
    for state in (waiting, delivered, recent):
        await store.commit(None, record(state))
    await store.release([record(delivered)])
    found = await store.list_undelivered(T0 + timedelta(milliseconds=500), 10)
    assert found == [StoredState(waiting, (record(waiting),), payload_at=place(waiting))]
    assert await store.list_undelivered(T0 + timedelta(milliseconds=500), 10, [waiting.key]) == []


async def test_a_colon_cannot_reach_another_users_state(store: StateStore) -> None:
    await store.commit(None, record(fresh(user="b:c", slug="a")))
    with pytest.raises(FlowNotFoundError):
        await store.load(StateId("a:b", "c"))


async def test_the_head_is_the_hash_of_the_last_record(store: StateStore) -> None:
    state = fresh()
    await store.commit(None, structs.replace(record(state), hash="h-0"))
    stored = await store.load(StateId("loop", "ada"))
    assert stored is not None
    assert stored.head == "h-0"
    await store.commit(state.position, structs.replace(record(moved(state)), hash="h-1"))
    stored = await store.load(StateId("loop", "ada"))
    assert stored is not None
    assert stored.head == "h-1"


async def test_many_at_once_have_their_own_outcomes(store: StateStore) -> None:
    """Commits in flight share commands: starts, changes, stale ones and rivals, each with its answer."""
    list_running = [fresh(user=f"u-{n}") for n in range(20)]
    await asyncio.gather(*(store.commit(None, record(state)) for state in list_running))
    wanted = [
        *((None, record(fresh(user=f"v-{n}"))) for n in range(10)),
        *((None, record(fresh(user=f"u-{n}", epoch="e2"))) for n in range(5)),
        *((state.position, record(moved(state), commit="first")) for state in list_running[:10]),
        *((state.position, record(moved(state), commit="rival")) for state in list_running[5:10]),
        *((moved(state).position, record(moved(moved(state)))) for state in list_running[15:]),
    ]
    made = await asyncio.gather(*(store.commit(before, one) for before, one in wanted))
    assert made[:10] == [True] * 10
    assert made[10:15] == [False] * 5
    assert made[15:20] == [True] * 5
    assert [a + b for a, b in zip(made[20:25], made[25:30], strict=True)] == [1] * 5, "one of two rivals"
    assert made[30:] == [False] * 5
    loaded = await asyncio.gather(
        *(store.load(StateId("loop", f"u-{n}")) for n in range(20)), store.load(StateId("loop", "x"))
    )
    assert [s and s.state.revision for s in loaded] == [*[1] * 10, *[0] * 10, None]
    for stored, rival in zip(loaded[5:10], made[25:30], strict=True):
        assert stored is not None
        assert stored.pending[-1].commit_id == ("rival" if rival else "first")


async def test_an_erasure_makes_a_state_forget_its_requests(store: StateStore) -> None:
    state = fresh()
    await store.commit(None, structs.replace(record(state), digest="d"))
    stored = await store.load(StateId("loop", "ada"))
    assert stored is not None
    assert stored.recent
    await store.commit(state.position, structs.replace(record(moved(state), kind="erased"), digest="d"))
    stored = await store.load(StateId("loop", "ada"))
    assert stored is not None
    assert stored.recent == ()


async def test_people_are_stored_exactly_and_removed(store: StateStore) -> None:
    state = structs.replace(peopled(fresh(), "bob", "cleo"), instance_id="E-1")
    made = structs.replace(record(state), actor="bob", actor_salt="salt-of-bob")
    assert await store.commit(None, made)
    found = (await store.walk("", 10))[0]
    assert found == StoredState(state, (made,))
    absent = dict.fromkeys(("participants", "awaits", "claims", "votes", "runs", "people"), UNSET)
    after = moved(state, **absent)
    assert await store.commit(state.position, record(after))
    assert [each.state for each in await store.walk("", 10)] == [after]


@pytest.mark.parametrize("kind", ["started", "reset", "set", "assigned"])
async def test_a_state_without_people_may_follow_one_with_people(store: StateStore, kind: Kind) -> None:
    """A start follows a tombstone; people and their salts may have been erased from it before."""
    ended = structs.replace(peopled(fresh(), "bob"), status="cleared", people=UNSET)
    await store.commit(None, record(ended))
    after = fresh(epoch="e2")
    assert await store.commit(ended.position, record(after, kind=kind))
    assert [each.state for each in await store.walk("", 10)] == [after]


async def test_the_states_that_name_a_person(store: StateStore) -> None:
    """Beside their owner; ended ones too."""
    named = [
        peopled(fresh("ada"), "bob", "cleo"),
        structs.replace(peopled(fresh("dan"), "cleo"), instance_id="E-1"),
        structs.replace(peopled(fresh("dan"), "bob", "cleo"), instance_id="E-2", status="cleared"),
        structs.replace(fresh("eve"), people=(PersonSalt("bob", "salt"),)),
    ]
    for state in (*named, fresh("bob"), structs.replace(fresh("fay"), participants=named[0].participants)):
        await store.commit(None, record(state))
    assert await store.ids_naming("bob") == [named[0].id, named[3].id, named[2].id]
    assert await store.ids_naming("cleo") == [named[0].id, named[1].id, named[2].id]
    assert await store.ids_naming("ada") == []
    changed = moved(state_without_person(named[0], "bob"))
    await store.commit(named[0].position, structs.replace(record(changed, kind="pseudonymised")))
    assert await store.ids_naming("bob") == [named[3].id, named[2].id]


async def test_an_erasure_of_a_person_makes_a_state_forget_its_requests(store: StateStore) -> None:
    state = peopled(fresh(), "bob")
    await store.commit(None, structs.replace(record(state), digest="d"))
    after = moved(state_without_person(state, "bob"))
    assert (await store.walk("", 1))[0].recent
    await store.commit(state.position, structs.replace(record(after, kind="pseudonymised"), digest="d"))
    assert (await store.walk("", 1))[0].recent == ()


async def test_states_are_found_by_what_they_are(store: StateStore) -> None:
    for slug, user, step in (("a", "u1", "a"), ("a", "u2", "b"), ("a", "u3", "b"), ("b", "u1", "b")):
        await store.commit(None, record(structs.replace(fresh(user=user, slug=slug), step=step)))
    held = structs.replace(fresh(user="u4", slug="a"), step="b", status="paused")
    await store.commit(None, record(held))

    async def keys(after: str | None = None, limit: int = 10, **only: str) -> list[str]:
        found = await store.find(StateFilter(**only), after, limit, T0)  # type: ignore[arg-type]
        return [state.key for state in found.states]

    assert await keys() == ["a:u1", "a:u2", "a:u3", "a:u4", "b:u1"]
    assert await keys(flow_id="a", step="b") == ["a:u2", "a:u3", "a:u4"]
    assert await keys(flow_id="a", step="b", status="active") == ["a:u2", "a:u3"]
    assert await keys(user_id="u1") == ["a:u1", "b:u1"]
    assert await keys(status="paused") == ["a:u4"]
    assert await keys(limit=2) == ["a:u1", "a:u2"]
    assert await keys(after="a:u2", limit=2) == ["a:u3", "a:u4"]
    assert await keys(after="a:u4", flow_id="a") == []
    async with asyncio.timeout(5):  # not a search for each character
        assert await keys(after="a:u2" + "x" * 60_000, limit=2) == ["a:u3", "a:u4"]


async def test_running_states_of_a_version_are_surveyed_by_where_they_stand(store: StateStore) -> None:
    places = [("a", "active"), ("b", "active"), ("b", "active"), ("b", "paused"), ("c", "completed")]
    for n, (step, status) in enumerate(places):
        state = structs.replace(fresh(user=f"u{n}"), step=step, status=status)
        await store.commit(None, record(state))
    back = structs.replace(fresh(user="with:colon"), step="b", previous="a")
    other = structs.replace(fresh(user="x"), version=2)
    expired = structs.replace(fresh(user="y"), expires_at=T0)
    ended = structs.replace(fresh(user="z"), status="cleared")
    stranger = fresh(user="u9", slug="loop2")
    for state in (back, other, expired, ended, stranger):
        await store.commit(None, record(state))

    found = await store.count_running_by_step("loop", 1, 1, T0)
    assert sorted(found, key=lambda f: (f.step, f.status, f.previous is UNSET)) == [
        RunningStates("a", "active", UNSET, 1, (StateId("loop", "u0"),)),
        RunningStates("b", "active", "a", 1, (StateId("loop", "with:colon"),)),
        RunningStates("b", "active", UNSET, 2, (StateId("loop", "u1"),)),
        RunningStates("b", "paused", UNSET, 1, (StateId("loop", "u3"),)),
    ]
    assert await store.count_running_by_step("loop", 3, 1, T0) == []
    assert await store.list_running("loop", 1, (), 10, T0) == [
        StateId("loop", "u0"),
        StateId("loop", "u1"),
        StateId("loop", "u2"),
        StateId("loop", "u3"),
        StateId("loop", "with:colon"),
    ]
    assert await store.list_running("loop", 1, ("b", "c"), 10, T0) == [StateId("loop", "u0")]
    assert await store.list_running("loop", 1, (), 2, T0) == [StateId("loop", "u0"), StateId("loop", "u1")]
    assert await store.list_running("loop", 2, (), 10, T0) == [StateId("loop", "x")]


async def test_states_whose_timeout_is_due_oldest_first(store: StateStore) -> None:
    for user, seconds, status in (("late", 5, "active"), ("later", 1, "active"), ("held", 1, "paused")):
        due = T0 + timedelta(seconds=seconds)
        await store.commit(None, record(structs.replace(fresh(user=user), timeout_at=due, status=status)))
    await store.commit(None, record(fresh(user="never")))
    assert [s.user_id async for s in store.timed_out(T0)] == []
    assert [s.user_id async for s in store.timed_out(T0 + timedelta(seconds=5))] == ["later", "late"]


async def test_a_walk_visits_every_state_once_by_key(store: StateStore) -> None:
    users = sorted(["a", "b-1", "b-10", "b-11", "b-2", "ą", "\ud7ff", "\ue000", "z", "\U0010ffff"])
    for user in users:
        await store.commit(None, record(fresh(user=user)))
    for size in (1, 2, 3, len(users), 100):
        visited: list[str] = []
        after = ""
        while page := await store.walk(after, size):
            assert len(page) <= size
            found = [stored.state for stored in page if isinstance(stored, StoredState)]
            visited += [state.user_id for state in found]
            after = found[-1].key
        assert visited == users


async def test_a_random_key_is_of_a_state_that_is_there(store: StateStore) -> None:
    assert await store.random_key() is None
    for user in ("a", "b", "c"):
        await store.commit(None, record(fresh(user=user)))
    assert await store.random_key() in {f"loop:{user}" for user in "abc"}


async def test_a_sound_state_is_salvaged_as_it_is(store: StateStore) -> None:
    await store.commit(None, record(fresh()))
    found = await store.load_or_salvage(StateId("loop", "ada"))
    assert isinstance(found, StoredState)
    assert found == await store.load(StateId("loop", "ada"))
    assert await store.load_or_salvage(StateId("loop", "nobody")) is None


async def test_a_state_is_replaced_as_it_was_read_or_not_at_all(store: StateStore) -> None:
    state = fresh()
    await store.commit(None, record(state))
    stale = DamagedState(moved(state).position, "odd")
    again = moved(state, message="repaired")
    assert not await store.replace(stale, record(again))
    assert await store.replace(DamagedState(state.position, "odd"), record(again, commit="new"))
    stored = await store.load(StateId("loop", "ada"))
    assert stored is not None
    assert stored.state == again
    assert [p.commit_id for p in stored.pending] == ["new"]
    await store.drop_damaged(StateId("loop", "ada"))


async def test_what_users_changed_since_a_moment(store: StateStore) -> None:
    for state in (fresh("ada"), fresh("bob"), fresh("eve")):
        await store.commit(None, record(state))
    bob = moved(fresh("bob"))
    await store.commit(fresh("bob").position, record(structs.replace(bob, payload={"a": 1})))
    since = bob.updated_at
    assert await store.changed_since(["ada", "bob"], since) == [bob], "without its payload"
    ended = moved(bob, status="cleared")
    await store.commit(bob.position, record(ended))
    assert await store.changed_since(["ada", "bob"], since) == [ended], "also a state that ended"
    found = await store.changed_since(["ada", "bob", "nobody"], fresh().updated_at)
    assert {state.user_id for state in found} == {"ada", "bob"}
    assert await store.changed_since(["ada", "bob"], ended.updated_at + timedelta(milliseconds=1)) == []
    assert await store.changed_since([], fresh().updated_at) == []


async def test_it_is_not_busy_when_nobody_waits_for_a_commit(store: StateStore) -> None:
    assert not store.busy
    await asyncio.gather(*(store.commit(None, record(fresh(f"u-{n}"))) for n in range(100)))
    assert not store.busy


@pytest.mark.parametrize("only", [StateFilter(flow_id="loop"), StateFilter(user_id="u1"), StateFilter()])
async def test_pages_end_at_a_number_of_bytes_too(store: StateStore, only: StateFilter) -> None:
    for n, slug in enumerate(["a", "b", "c", "loop", "loop", "loop"]):
        user = "u1" if slug != "loop" or n == 3 else f"u{n}"
        await store.commit(None, record(fresh(slug=slug, user=user, payload={"text": "x" * 400_000})))
    everything = [s.key for s in (await store.find(only, None, 1, T0)).states]
    pages, after = [], None
    while (page := await store.find(only, after, 100, T0)).next is not None:
        pages.append([state.key for state in page.states])
        after = page.next
    pages.append([state.key for state in page.states])
    found = [key for keys in pages for key in keys]
    assert found[:1] == everything
    assert found == sorted(set(found))
    assert len(found) == (6 if only == StateFilter() else 4 if only.user_id else 3)
    assert max(len(keys) for keys in pages) <= 2, "400 kB each"


async def test_a_payload_that_a_record_names_is_stored_once(store: StateStore) -> None:
    first = fresh(payload={"a": 1})
    second = moved(first)
    named = structs.replace(record(second), payload_revision=0)
    third = moved(second, payload={"a": 2})
    await store.commit(None, record(first))
    assert await store.commit(first.position, named)
    stored = await store.load(StateId("loop", "ada"))
    assert stored is not None
    assert (stored.state, stored.payload_at) == (second, place(first)), "the state has its payload"
    assert stored.pending == (record(first), as_stored(named))
    assert stored.deliverable == [record(first), named]
    await store.release([record(first)])
    stored = await store.load(StateId("loop", "ada"))
    assert stored is not None
    assert stored.deliverable == [named], "the state has it"
    await store.commit(second.position, record(third))
    stored = await store.load(StateId("loop", "ada"))
    assert stored is not None
    assert stored.payload_at == place(third)
    assert stored.deliverable == [as_stored(named), record(third)], "the history has it"
    fourth = moved(third, payload=UNSET)
    await store.commit(third.position, record(fourth))
    stored = await store.load(StateId("loop", "ada"))
    assert stored is not None
    assert stored.payload_at is None


def one_of_many(entity: str, minute: int = 0, **changes: Any) -> FlowState:
    """One of many states of a user, started some minutes after T0."""
    return structs.replace(
        fresh(), instance_id=entity, created_at=T0 + timedelta(minutes=minute), entity_id=UNSET, **changes
    )


async def instances(store: StateStore, user: str = "ada", flow: str = "loop", **asked: Any) -> StatePage:
    options = {"status": None, "after": None, "limit": 10, "now": T0, **asked}
    return await store.list_instances(flow, user, **options)


def entities(page: StatePage) -> list[Any]:
    return [state.instance_id for state in page.states]


async def test_instances_are_listed_from_the_newest_start(store: StateStore) -> None:
    for entity, minute in (("old", 1), ("b", 2), ("a", 2), ("new", 30), ("with;semi:colon%", 3)):
        await store.commit(None, record(one_of_many(entity, minute)))
    others = [
        fresh(entity_id="label"),
        one_of_many("x", user_id="ada;old"),
        one_of_many("x", user_id="ad"),
        one_of_many("x", flow="loop2"),
        one_of_many("ended", status="cleared"),
        one_of_many("expired", expires_at=T0),
    ]
    for state in others:
        await store.commit(None, record(state))
    whole = await instances(store)
    assert (entities(whole), whole.next) == (["new", "with;semi:colon%", "a", "b", "old"], None)
    paged: list[Any] = []
    after = None
    for _ in range(5):
        page = await instances(store, limit=2, after=after)
        paged += entities(page)
        after = page.next
        if after is None:
            break
    assert paged == entities(whole)
    assert entities(await instances(store, "ada;old")) == ["x"]
    assert entities(await instances(store, flow="loop2")) == ["x"]
    assert entities(await instances(store, "nobody")) == []


async def test_instances_are_listed_by_status_and_only_while_they_are_there(store: StateStore) -> None:
    running, done = one_of_many("running"), one_of_many("done", 1, status="completed")
    halted = one_of_many("halted", 2, status="paused", expires_at=T0)
    for state in (running, done, halted):
        await store.commit(None, record(state))
    assert entities(await instances(store)) == ["halted", "done", "running"]
    assert entities(await instances(store, status="active")) == ["running"]
    assert entities(await instances(store, status="completed")) == ["done"]
    assert entities(await instances(store, status="paused")) == ["halted"]
    await store.commit(running.position, record(moved(running, status="completed")))
    await store.commit(done.position, record(moved(done, status="cleared")))
    assert entities(await instances(store, status="completed")) == ["running"]
    assert entities(await instances(store, status="active")) == []


async def test_states_wait_for_participants_with_a_role_of_the_step(store: StateStore) -> None:
    ann, team = Participant("approver", user_id="ann"), Participant("approver", group="team")
    viewer = Participant("viewer", user_id="ann")
    named = [ann, team, viewer]

    def waiting(user: str, *participants: Participant, **changes: Any) -> FlowState:
        return structs.replace(fresh(user=user), participants=participants, **changes)

    for state in (
        waiting("a", ann, awaits=("approver",)),
        waiting("b", team, viewer, awaits=("approver",)),
        waiting("c", ann, viewer, awaits=("viewer",)),
        waiting("d", ann, awaits=()),
        waiting("e", ann, awaits=("approver",), status="completed"),
        waiting("f", ann, awaits=("approver",), expires_at=T0),
        waiting("g", Participant("approver", user_id="team"), awaits=("approver",)),
        waiting("h", Participant("approver", group="ann"), awaits=("approver",)),
        waiting("i", ann, team, awaits=("approver",)),
        fresh(user="j"),
        structs.replace(waiting("k", ann, awaits=("approver",)), instance_id="e", entity_id=UNSET),
    ):
        await store.commit(None, record(state))

    async def keys(*roles: Participant, after: str | None = None, limit: int = 10) -> list[str]:
        page = await store.list_awaiting(roles, after=after, limit=limit, now=T0)
        return [state.key for state in page.states]

    assert await keys(ann) == ["loop:a", "loop:i", "loop;k;e"]
    assert await keys(team) == ["loop:b", "loop:i"]
    assert await keys(ann, team) == ["loop:a", "loop:b", "loop:i", "loop;k;e"]
    assert await keys(viewer) == ["loop:c"]
    assert await keys(*named, limit=2) == ["loop:a", "loop:b"]
    assert await keys(*named, after="loop:b") == ["loop:c", "loop:i", "loop;k;e"]
    first = await store.list_awaiting(named, after=None, limit=2, now=T0)
    assert first.next == "loop:b"
    decided = waiting("a", ann, awaits=("approver",))
    await store.commit(decided.position, record(moved(decided, awaits=())))
    assert await keys(ann) == ["loop:i", "loop;k;e"]


async def test_states_are_found_by_the_terms_of_their_last_commit(store: StateStore) -> None:
    def found_by(user: str, *terms: str, **changes: Any) -> FlowState:
        return structs.replace(fresh(user=user), search_terms=terms, **changes)

    for state in (
        found_by("a", "loop;/n=1", 'loop;/t="é"'),
        found_by("b", "loop;/n=2", "loop;/n=1"),
        found_by("c"),
        found_by("d", "loop;/n=1", expires_at=T0),
        fresh(user="e"),
        found_by("f", "loop;/n=1", status="paused"),
        structs.replace(found_by("g", "loop;/n=2"), instance_id="e", entity_id=UNSET),
    ):
        assert await store.commit(None, record(state))

    async def keys(*terms: str, after: str | None = None, limit: int = 10) -> list[str]:
        page = await store.find_by_terms(terms, after=after, limit=limit, now=T0)
        return [state.key for state in page.states]

    assert await keys("loop;/n=1") == ["loop:a", "loop:b", "loop:f"]
    assert await keys('loop;/t="é"') == ["loop:a"]
    assert await keys("loop;/n=1", "loop;/n=2") == ["loop:a", "loop:b", "loop:f", "loop;g;e"]
    assert await keys("loop;/n", "other;/n=1", "1") == []
    first = await store.find_by_terms(["loop;/n=1"], after=None, limit=2, now=T0)
    assert first.next == "loop:b"
    assert await keys("loop;/n=1", after="loop:b") == ["loop:f"]

    a, b = found_by("a"), found_by("b")
    assert await store.commit(a.position, record(structs.replace(moved(a), search_terms=("loop;/n=2",))))
    assert await store.commit(b.position, record(structs.replace(moved(b), search_terms=())))
    assert await keys("loop;/n=1") == ["loop:f"]
    assert await keys("loop;/n=2") == ["loop:a", "loop;g;e"]
    f = found_by("f", status="paused")
    ended = structs.replace(moved(f), status="cleared", payload=UNSET, search_terms=UNSET)
    assert await store.commit(f.position, record(ended, kind="cleared"))
    assert await keys("loop;/n=1") == []
    again = structs.replace(fresh(user="f", epoch="e2"), search_terms=("loop;/n=1",))
    assert await store.commit(ended.position, record(again, kind="started"))
    assert await keys("loop;/n=1") == ["loop:f"]


async def test_the_states_of_a_user_are_of_all_flows_and_entities(store: StateStore) -> None:
    states = [
        fresh(),
        fresh(slug="other"),
        structs.replace(fresh(slug="gone"), status="cleared"),
        one_of_many("e-1"),
        one_of_many("e;2"),
        fresh(user="ada;e-1"),
        one_of_many("ada"),
        one_of_many("e-1", user_id="adam"),
    ]
    for state in states:
        await store.commit(None, record(state))
    mine = [state.id for state in states if state.user_id == "ada"]
    assert await store.ids_of_user("ada") == sorted(mine, key=lambda state_id: state_id.key)
    assert await store.ids_of_user("ada;e-1") == [StateId("loop", "ada;e-1")]
    assert await store.ids_of_user("nobody") == []
