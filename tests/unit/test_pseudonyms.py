"""Erasures of people from states and records: the chain verifies, and nobody else's id changes."""

from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from msgspec import UNSET, structs

from app.auth.claims import ClaimNames
from app.contracts.errors import AuthenticationRequiredError
from app.contracts.identifiers import is_id
from app.contracts.people import PersonSalt, TransitionBy, is_pseudonym, pseudonym
from app.contracts.pseudonyms import NAMING, named_people, state_without_person, without_person
from app.contracts.record import HistoryRecord, state_after
from app.contracts.state import FlowState
from app.flow.history_chain import Chain, is_intact, seal
from models.codec import record_to_document, state_to_document
from tests.support.samples import T0, fresh, full_record, moved, peopled, record

Records = list[HistoryRecord]
BOB = "person:" + sha256(b"salt-of-bobbob").hexdigest()[:32]


def life(*people: str, head: str = "", **first: Any) -> Records:
    """A started state, and a move by each of the people."""
    state = peopled(fresh(**first), *dict.fromkeys(people))
    made = [seal(record(state), head, "salt-0")]
    for n, actor in enumerate(people, 1):
        state = moved(state)
        bare = structs.replace(record(state), actor=actor, actor_salt=f"salt-of-{actor}")
        made.append(seal(bare, str(made[-1].hash), f"salt-{n}"))
    return made


def receipt(after: HistoryRecord) -> HistoryRecord:
    """The record of an erasure of bob."""
    state = moved(state_without_person(state_after(after), "bob"))
    return seal(record(state, kind="pseudonymised"), str(after.hash), "salt-r")


def check(records: Records, state: FlowState | None = None, head: str = "", *, pruned: bool = False) -> Chain:
    chain = Chain(pruned=pruned)
    for one in records:
        chain.add(one)
    chain.close()
    if state is not None:
        chain.compare(state, head, T0)
    return chain


def test_the_pseudonym_is_fixed() -> None:
    """Hashes cover it for ever."""
    assert pseudonym("salt-of-bob", "bob") == BOB == "person:7f3624dc42249d413053b44352353241"
    assert is_pseudonym(BOB)
    for text in ("person:", BOB[:-1], BOB + "0", BOB.upper(), "bob", f" {BOB}", f"{BOB}\n"):
        assert not is_pseudonym(text), text


def test_nobody_is_called_like_a_pseudonym() -> None:
    assert not is_id(BOB)
    with pytest.raises(AuthenticationRequiredError):
        ClaimNames().caller({"sub": BOB}, 0)
    assert is_id("person:bob")
    assert is_id(BOB + "0")


def test_a_person_is_replaced_everywhere_and_the_record_stays_intact() -> None:
    whole = full_record()
    bare = without_person(whole, "bob")
    assert is_intact(bare)
    assert (bare.actor, bare.actor_salt, bare.hash) == (BOB, UNSET, whole.hash)
    assert "bob" not in str(record_to_document(bare))
    before, after = state_after(whole), state_after(bare)
    assert after.people == (PersonSalt("cleo", "salt-of-cleo"),)
    for name in NAMING:
        assert [BOB if e.user_id == "bob" else e.user_id for e in getattr(before, name)] == [
            e.user_id for e in getattr(after, name)
        ], name
        assert BOB in [e.user_id for e in getattr(after, name)], name
    assert after == state_without_person(before, "bob")
    assert named_people(whole) == ["bob", "cleo"]
    assert named_people(bare) == ["cleo"]
    nobody = without_person(bare, "cleo")
    assert is_intact(nobody)
    assert state_after(nobody).people == ()
    assert named_people(nobody) == []
    assert "named" not in record_to_document(nobody)
    assert state_to_document(state_after(nobody))["people"] == []


@pytest.mark.parametrize("user_id", ["eve", "ada", "finance", "approver", BOB, ""])
def test_what_does_not_name_a_person_is_returned_as_it_is(user_id: str) -> None:
    """The owner and groups have no salts."""
    whole = full_record()
    assert without_person(whole, user_id) is whole
    assert state_without_person(state_after(whole), user_id) is state_after(whole)
    plain = record(fresh())
    assert without_person(plain, user_id) is plain


def test_an_id_without_a_salt_is_covered_and_left_as_it_is() -> None:
    service = seal(structs.replace(record(peopled(fresh(), "cleo")), actor="bob"), "", "salt")
    assert without_person(service, "bob") is service
    assert not is_intact(structs.replace(service, actor=pseudonym("any", "bob")))


def test_the_actor_of_a_refused_attempt_is_replaced() -> None:
    refused = structs.replace(
        full_record(), kind="refused", success=False, after=UNSET, actor="bob", actor_salt="salt-of-bob"
    )
    refused = seal(refused, "before", "salt")
    bare = without_person(refused, "bob")
    assert (bare.actor, is_intact(bare), named_people(bare)) == (BOB, True, [])


CHANGES: dict[str, Callable[[HistoryRecord], HistoryRecord]] = {
    "actor": lambda r: structs.replace(r, actor="cleo"),
    "salt of the actor": lambda r: structs.replace(r, actor_salt="pepper"),
    "salt of the actor missing": lambda r: structs.replace(r, actor_salt=UNSET),
    "salts of people": lambda r: after_with(r, people=(PersonSalt("bob", "pepper"), salt("cleo"))),
    "one of the people": lambda r: after_with(r, people=(salt("bob"),)),
    "a second salt": lambda r: after_with(r, people=(salt("bob"), PersonSalt("bob", "x"), salt("cleo"))),
    "no people": lambda r: after_with(r, people=UNSET),
    "participants": lambda r: after_with(r, participants=state_after(r).participants[1:]),  # type: ignore[index]
    "a role": lambda r: changed_entry(r, "participants", role="clerk"),
    "a group": lambda r: changed_entry(r, "participants", at=-1, group="sales"),
    "a user as a group": lambda r: changed_entry(r, "participants", user_id=UNSET, group=BOB),
    "a group as a user": lambda r: changed_entry(r, "participants", at=-1, user_id="finance", group=UNSET),
    "another pseudonym": lambda r: changed_entry(r, "participants", user_id=pseudonym("x", "bob")),
    "a claim": lambda r: changed_entry(r, "claims", user_id="cleo"),
    "the end of a claim": lambda r: changed_entry(r, "claims", until=T0 + timedelta(days=1)),
    "a vote": lambda r: changed_entry(r, "votes", user_id="cleo"),
    "what was voted": lambda r: changed_entry(r, "votes", transition="stop"),
    "a run": lambda r: changed_entry(r, "runs", user_id="eve"),
    "votes": lambda r: after_with(r, votes=()),
    "awaits": lambda r: after_with(r, awaits=("clerk",)),
    "the entity of the record": lambda r: structs.replace(r, instance_id="E-2"),
    "the entity of the state": lambda r: after_with(r, instance_id="E-2"),
}  # fmt: skip


def salt(user_id: str) -> PersonSalt:
    return PersonSalt(user_id, f"salt-of-{user_id}")


def after_with(one: HistoryRecord, **changes: Any) -> HistoryRecord:
    return structs.replace(one, after=structs.replace(state_after(one), **changes))


def changed_entry(one: HistoryRecord, member: str, at: int = 0, **changes: Any) -> HistoryRecord:
    entries = list(getattr(state_after(one), member))
    entries[at] = structs.replace(entries[at], **changes)
    return after_with(one, **{member: tuple(entries)})


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_people_is_found(change: str) -> None:
    records = life("bob", "cleo", entity_id=None)
    assert check(records).broken is None
    tampered = [*records]
    tampered[1] = CHANGES[change](records[1])
    broken = check(tampered).broken
    assert broken is not None
    assert broken.id == records[1].id


def test_a_chain_verifies_before_during_and_after_an_erasure() -> None:
    records = life("bob", "cleo", "bob")
    records.append(receipt(records[-1]))
    state = state_after(records[-1])
    head = str(records[-1].hash)
    later = moved(state, participants=state.participants)
    records.append(seal(record(later), head, "salt-l"))
    for rewritten in range(len(records) + 1):
        mixed = [without_person(r, "bob") if n < rewritten else r for n, r in enumerate(records)]
        chain = check(mixed, later, str(records[-1].hash))
        assert chain.broken is None, rewritten
        assert chain.head == records[-1].hash
    assert "bob" not in str([record_to_document(without_person(r, "bob")) for r in records])
    whole = [without_person(r, "bob") for r in records]
    assert [r.actor for r in whole][1:4] == [BOB, "cleo", BOB], "the same person has the same pseudonym"
    assert {run.user_id for r in whole for run in state_after(r).runs or ()} == {"ada", BOB, "cleo"}


def test_the_state_must_be_the_one_without_the_person_too() -> None:
    records = life("bob", "cleo")
    records.append(receipt(records[-1]))
    chain = check(records, state_after(records[-1]), str(records[-1].hash))
    assert chain.broken is None
    broken = check(records, moved(state_after(records[-2])), str(records[-1].hash)).broken
    assert broken is not None
    assert broken.id == records[-1].id


def test_a_pseudonym_needs_a_receipt() -> None:
    """Otherwise whoever can write to the database could remove the name of one who acted, unnoticed."""
    records = life("bob", "cleo", "bob")
    whole = [without_person(r, "bob") for r in records]
    broken = check(whole).broken
    assert broken is not None
    assert broken.id == records[0].id
    one = [*records[:3], without_person(records[3], "bob")]
    broken = check(one).broken
    assert broken is not None
    assert broken.id == records[3].id
    ended = [*records, receipt(records[-1])]
    hidden = seal(
        structs.replace(
            record(moved(state_after(ended[-1]))), actor=pseudonym("other", "eve"), actor_salt=UNSET
        ),
        str(ended[-1].hash),
        "salt",
    )
    broken = check([*ended, hidden]).broken
    assert broken is not None, "a receipt explains the pseudonyms before it, and that they remain"
    assert broken.id == hidden.id


def test_a_receipt_may_be_pruned_before_what_it_explains() -> None:
    records = life("bob", "cleo")
    records.append(receipt(records[-1]))
    state = state_after(records[-1])
    for n in range(2):
        state = moved(state)
        records.append(seal(record(state), str(records[-1].hash), f"salt-l{n}"))
    whole = [without_person(r, "bob") for r in records]
    for first in range(len(whole)):
        assert check(whole[first:], pruned=True).broken is None, first
    assert check(whole[4:]).broken is not None


def test_a_person_has_one_salt_along_a_chain() -> None:
    """Otherwise an erasure would leave two pseudonyms of one person."""
    records = life("bob")
    state = moved(state_after(records[-1]), runs=UNSET, participants=UNSET, claims=UNSET, votes=UNSET)
    records.append(seal(record(state), str(records[-1].hash), "salt"))
    assert check(records).broken is None
    tampered = after_with(records[-1], people=(PersonSalt("bob", "pepper"),))
    assert is_intact(tampered), "the record itself does not need the salt"
    broken = check([*records[:-1], tampered]).broken
    assert broken is not None
    assert broken.id == records[-1].id


def test_a_state_that_was_lost_may_have_new_salts() -> None:
    records = life("bob")
    state = structs.replace(peopled(fresh(epoch="e2"), "bob"), people=(PersonSalt("bob", "pepper"),))
    records.append(seal(record(state), str(records[-1].hash), "salt"))
    assert check(records).broken is None


def test_an_id_that_looks_like_a_pseudonym_is_replaced_like_any_other() -> None:
    """One from before such ids were refused."""
    state = structs.replace(fresh(), runs=(TransitionBy("go", BOB),), people=(PersonSalt(BOB, "s"),))
    sealed = seal(structs.replace(record(state), actor=BOB, actor_salt="s"), "", "salt")
    assert check([sealed]).broken is None
    bare = without_person(sealed, BOB)
    assert is_intact(bare)
    assert bare.actor == pseudonym("s", BOB) != BOB
    assert not is_intact(structs.replace(sealed, actor_salt=UNSET)), "it cannot take the place of another's"
