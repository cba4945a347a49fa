"""Any change of the stored audit log is found, with its place."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mongomock_motor import AsyncMongoMockClient

from app.contracts.audit import AuditVerification
from app.contracts.callers import Caller
from app.contracts.errors import FlowNotFoundError
from app.contracts.wire.times import iso
from app.kit.hash_chain import link_hash
from app.services.audit.log import AuditLog
from app.services.audit.source import ActSource, acting_from
from models.audit_store import MongoAuditStore
from models.database import Database
from tests.support.fakes import FakeClock, FakeSecretStore
from tests.support.long_form import examples

Document = dict[str, Any]
ROOT = Caller("root")


def database() -> Database:
    return Database(AsyncMongoMockClient(tz_aware=True), f"test_{uuid.uuid4().hex}")


async def acts(where: Database) -> None:
    """Six acts, of which the first contains the second, one fails, and the last never ends."""
    log = AuditLog(MongoAuditStore(where), FakeSecretStore(), FakeClock())
    with acting_from(ActSource("http", "192.0.2.1", "r-1")):
        async with log.act("a.outer", "flow:x", ROOT), log.act("a.inner", "flow:x", ROOT, before="00") as act:
            act.after = "11"
            act.details.update(n=3, yes=True, text="x")
        with pytest.raises(FlowNotFoundError):
            async with log.act("a.failing", "flow:x", ROOT, user_id="ada"):
                raise FlowNotFoundError("x")
        for n in range(2):
            async with log.act("a.plain", f"flow:{n}", ROOT):
                pass
        await log.begin("a.open", "flow:x", ROOT)


async def _documents() -> list[Document]:
    where = database()
    await acts(where)
    found: list[Document] = await where.collection("flow_audit").find({}).sort("sequence", 1).to_list(None)
    return found


WHOLE = asyncio.run(_documents())
COUNT = len(WHOLE)
HEAD = WHOLE[-1]["_id"]


def copies() -> list[Document]:
    return [{**document, "details": dict(document["details"])} for document in WHOLE]


def verify(documents: list[Document], head: str = "") -> AuditVerification:
    async def run() -> AuditVerification:
        where = database()
        if documents:
            await where.collection("flow_audit").insert_many(documents)
        return await AuditLog(MongoAuditStore(where), FakeSecretStore(), FakeClock()).verify(head)

    return asyncio.run(run())


def broken_at(documents: list[Document], head: str = "") -> int | None:
    broken = verify(documents, head).broken
    return None if broken is None else broken.sequence


def test_an_untouched_log_is_whole() -> None:
    found = verify(copies(), WHOLE[0]["_id"])
    assert (found.entries, found.head, found.broken) == (COUNT, HEAD, None)
    assert found.unfinished == (COUNT,)


PLACES = st.integers(0, COUNT - 1)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.datetimes(datetime(1, 1, 2), datetime(9998, 1, 1)),  # noqa: DTZ001 - BSON has no zones
    st.lists(st.integers(0, 9), max_size=2),
    st.dictionaries(st.text("abc", max_size=2), st.integers(0, 9), max_size=2),
)


def _is_same(left: Any, right: Any) -> bool:
    if isinstance(left, datetime) and isinstance(right, datetime):
        utc = [each if each.tzinfo else each.replace(tzinfo=UTC) for each in (left, right)]
        return iso(utc[0]) == iso(utc[1])
    number = isinstance(left, float) and isinstance(right, int)  # 3 and 3.0 are one number in JSON
    return bool(left == right) and (number or type(left) is type(right))


@examples(300, fraction=20)
@given(PLACES, st.data())
def test_a_changed_member_is_found(place: int, data: st.DataObject) -> None:
    documents = copies()
    changed = documents[place]
    name = data.draw(st.sampled_from(sorted(set(changed) - {"_id"})))
    value = data.draw(VALUES)
    if _is_same(value, changed[name]):
        return
    changed[name] = value
    found = broken_at(documents, HEAD)
    assert found == place + 1 or (name == "sequence" and found is not None)


@examples(300, fraction=20)
@given(PLACES, st.data())
def test_a_changed_detail_is_found(place: int, data: st.DataObject) -> None:
    documents = copies()
    details = documents[place]["details"]
    details[data.draw(st.sampled_from(["n", "yes", "text", "new"]))] = data.draw(
        st.one_of(st.booleans(), st.integers(10, 99), st.text("yz", max_size=3))
    )
    if details == WHOLE[place]["details"]:
        return
    assert broken_at(documents) == place + 1


@examples(300, fraction=20)
@given(PLACES, st.data())
def test_a_removed_member_is_found(place: int, data: st.DataObject) -> None:
    documents = copies()
    del documents[place][data.draw(st.sampled_from(sorted(set(documents[place]) - {"_id"})))]
    assert broken_at(documents, HEAD) == place + 1


@examples(300, fraction=20)
@given(PLACES, st.text("abc", min_size=1, max_size=4), VALUES)
def test_an_added_member_is_found(place: int, name: str, value: Any) -> None:
    documents = copies()
    documents[place][name] = value
    assert broken_at(documents) == place + 1


@examples(300, fraction=20)
@given(st.sets(PLACES, min_size=1))
def test_removed_entries_are_found(places: set[int]) -> None:
    left = [document for place, document in enumerate(copies()) if place not in places]
    last_left = max((place for place in range(COUNT) if place not in places), default=-1)
    if all(place > last_left for place in places):  # the end: only the head that is stored elsewhere shows it
        assert broken_at(left) is None
        assert broken_at(left, HEAD) == len(left) + 1
    else:
        assert broken_at(left) is not None


@examples(300, fraction=20)
@given(PLACES, PLACES)
def test_swapped_entries_are_found(one: int, other: int) -> None:
    documents = copies()
    numbers = documents[one]["sequence"], documents[other]["sequence"]
    documents[other]["sequence"], documents[one]["sequence"] = numbers
    assert (broken_at(documents) is None) == (one == other)
    if one != other:
        assert broken_at(documents) == min(one, other) + 1


@examples(300, fraction=20)
@given(PLACES, PLACES, st.sampled_from([0, 0.5, COUNT, COUNT + 3]))
def test_an_inserted_copy_is_found(which: int, place: int, step: float) -> None:
    documents = copies()
    new = {**documents[which], "_id": "copy", "sequence": place + 1 + step}
    assert broken_at([*documents, new]) is not None


@examples(300, fraction=20)
@given(PLACES, st.sampled_from(["actor", "action", "target", "at", "outcome"]))
def test_a_changed_entry_with_a_hash_of_its_own_breaks_the_link_after_it(place: int, name: str) -> None:
    """All later hashes must be made anew, too, up to the head that is stored elsewhere."""
    documents = copies()
    changed = documents[place]
    values = {"at": changed["at"] + timedelta(hours=1), "outcome": "failed"}
    changed[name] = values.get(name, "other")
    members = {key: value for key, value in changed.items() if key not in ("_id", "previousHash")}
    members["at"] = iso(changed["at"].replace(tzinfo=UTC))
    changed["_id"] = link_hash("flow-audit-1", changed["previousHash"], members)
    assert broken_at(documents, HEAD) is not None or changed["_id"] == WHOLE[place]["_id"]


def test_an_unreadable_entry_does_not_stop_the_log() -> None:
    async def run() -> tuple[AuditVerification, int]:
        where = database()
        await acts(where)
        store = MongoAuditStore(where)
        await where.collection("flow_audit").update_one({"sequence": COUNT}, {"$set": {"at": "?"}})
        log = AuditLog(store, FakeSecretStore(), FakeClock())
        async with log.act("a.later", "flow:x", ROOT):
            pass
        return await log.verify(), len(await store.read(0, 100))

    found, entries = asyncio.run(run())
    assert entries == COUNT + 2
    assert found.broken is not None
    assert found.broken.sequence == COUNT
    assert found.broken.reason.startswith("it cannot be read")
