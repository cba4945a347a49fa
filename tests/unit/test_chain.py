"""The chain over a state's records: whole when nothing was changed, broken at the right place when
anything was."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET, structs

from app.contracts.record import HistoryRecord, UnreadableRecord
from app.flow.chain import Chain, is_intact, seal
from tests.support.samples import T0, fresh, moved, record

Records = list[HistoryRecord]


def life(count: int = 4, *, head: str = "", **first: Any) -> Records:
    """A state's records: started, then moved ``count - 1`` times."""
    made: Records = []
    state = fresh(payload={"iban": "DE02"}, entity_id="org", **first)
    for n in range(count):
        made.append(seal(record(state), made[-1].hash if made else head, f"salt-{n}"))  # type: ignore[arg-type]
        state = moved(state, message="note")
    return made


def erased(one: HistoryRecord) -> HistoryRecord:
    assert one.after is not UNSET
    bare = structs.replace(one.after, payload=UNSET, message=UNSET, entity_id=UNSET)
    return structs.replace(one, payload=UNSET, request_id=UNSET, salt=UNSET, after=bare)


def check(records: list[Any], whole: Records | None = None, **options: Any) -> Chain:
    """``whole``: the records that the state's document was made by."""
    chain = Chain(**options)
    for one in records:
        chain.add(one)
    chain.close()
    if whole is not None:
        last = whole[-1]
        assert last.after is not UNSET
        chain.compare(last.after, last.hash or "", T0)
    return chain


def test_an_untouched_life_is_whole() -> None:
    records = life()
    chain = check(records, records)
    assert (chain.broken, chain.records, chain.unsealed, chain.erased) == (None, 4, 0, 0)
    assert chain.head == records[-1].hash


CHANGES: dict[str, Callable[[HistoryRecord], HistoryRecord]] = {
    "actor": lambda r: structs.replace(r, actor="eve"),
    "to step": lambda r: structs.replace(r, to_step="c"),
    "time": lambda r: structs.replace(r, timestamp=r.timestamp + timedelta(milliseconds=1)),
    "payload": lambda r: structs.replace(r, payload={"given": 2}),
    "payload gone": lambda r: structs.replace(r, payload=UNSET),
    "state after": lambda r: structs.replace(r, after=structs.replace(r.after, ok=False)),
    "payload after": lambda r: structs.replace(r, after=structs.replace(r.after, payload={"iban": "DE99"})),
    "request": lambda r: structs.replace(r, request_id="other"),
    "salt": lambda r: structs.replace(r, salt="pepper"),
    "salt gone": lambda r: structs.replace(r, salt=UNSET),
    "commitment": lambda r: structs.replace(r, commitment="0" * 64),
    "hash": lambda r: structs.replace(r, hash="0" * 64),
    "hash gone": lambda r: structs.replace(r, hash=UNSET),
    "unlinked": lambda r: seal(r, "", "salt"),
    "unreadable": lambda r: UnreadableRecord(r.id, "torn", r.epoch, r.revision),  # type: ignore[dict-item,return-value]
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_found_where_it_is(change: str) -> None:
    records = life()
    tampered: list[Any] = [*records]
    tampered[2] = CHANGES[change](records[2])
    broken = check(tampered, records).broken
    assert broken is not None
    assert broken.id == records[2].id
    assert broken.reason


def test_who_changes_a_record_and_seals_it_anew_breaks_the_next() -> None:
    records = life()
    records[1] = seal(structs.replace(records[1], actor="eve"), str(records[0].hash), "salt")
    broken = check(records).broken
    assert broken is not None
    assert broken.id == records[2].id


@pytest.mark.parametrize(("gone", "found_at"), [(0, 1), (1, 2), (2, 3)])
def test_a_record_that_is_gone_is_missed_by_the_next(gone: int, found_at: int) -> None:
    records = life()
    broken = check([r for n, r in enumerate(records) if n != gone], records).broken
    assert broken is not None
    assert broken.id == records[found_at].id


def test_the_last_one_that_is_gone_is_missed_by_the_state() -> None:
    records = life()
    broken = check(records[:-1], records).broken
    assert broken is not None
    assert broken.id == records[-2].id
    assert check(records[:-1]).broken is None, "without a state nobody can tell"


def test_records_of_before_the_chain_may_come_first() -> None:
    old = [record(fresh()), record(moved(fresh()))]
    state = moved(moved(fresh()))
    sealed = seal(record(state), "", "salt")
    chain = check([*old, sealed], [sealed])
    assert (chain.broken, chain.unsealed) == (None, 2)
    assert check(old, old).broken is None


def test_a_refusal_hangs_on_the_commit_before_it() -> None:
    records = life(2)
    bare = structs.replace(
        record(fresh(), kind="refused"), id=f"{records[0].id}:x", after=UNSET, success=False, error="X"
    )
    refusal = seal(bare, str(records[0].hash), "salt")
    assert check([records[0], refusal, records[1]], records).broken is None
    assert check(records, records).broken is None, "that one is gone cannot be seen"
    broken = check([records[0], structs.replace(refusal, error="Y"), records[1]]).broken
    assert broken is not None
    assert broken.id == refusal.id


def test_what_was_erased_needs_a_receipt() -> None:
    records = life()
    ending = seal(record(moved(moved(moved(moved(fresh()))), status="cleared"), kind="erased"),
                  str(records[-1].hash), "salt")  # fmt: skip
    whole = [*(erased(r) for r in records), ending]
    chain = check(whole, whole)
    assert (chain.broken, chain.erased) == (None, 4)
    broken = check([erased(r) for r in records]).broken
    assert broken is not None
    assert broken.id == records[0].id
    whole[1] = structs.replace(whole[1], actor="eve")
    broken = check(whole, whole).broken
    assert broken is not None, "the rest of an erased record is still covered"
    assert broken.id == records[1].id


@pytest.mark.parametrize("forged", [{"payload": {"n": 1}}, {"request_id": "r"}, {"digest": "d"}])
def test_an_erased_record_gets_no_payload_again(forged: dict[str, Any]) -> None:
    records = life()
    ending = seal(record(moved(moved(moved(moved(fresh()))), status="cleared"), kind="erased"),
                  str(records[-1].hash), "salt")  # fmt: skip
    whole = [*(erased(r) for r in records), ending]
    whole[1] = structs.replace(whole[1], **forged)
    broken = check(whole, whole).broken
    assert broken is not None
    assert broken.id == records[1].id


def test_what_only_says_that_it_is_a_receipt_is_none() -> None:
    records = life()
    false = record(moved(moved(moved(moved(fresh())))), kind="erased")
    for one in (false, structs.replace(false, success=False, after=UNSET)):
        whole = [*(erased(r) for r in records), seal(one, str(records[-1].hash), "salt")]
        broken = check(whole).broken
        assert broken is not None
        assert broken.id == records[0].id


def test_the_chain_leads_to_the_state() -> None:
    records = life()
    last = records[-1].after
    assert last is not UNSET
    for state, head in (
        (moved(last), str(records[-1].hash)),
        (structs.replace(last, step="c"), str(records[-1].hash)),
        (last, str(records[-2].hash)),
        (None, ""),
    ):
        chain = Chain()
        for one in records:
            chain.add(one)
        chain.compare(state, head, T0)
        assert chain.broken is not None
        assert chain.broken.id == records[-1].id


def test_a_state_may_be_gone_when_it_had_ended_or_its_time_was_over() -> None:
    for state in (fresh(), structs.replace(fresh(), expires_at=T0)):
        for after in (state, moved(state, status="cleared")):
            chain = Chain()
            chain.add(seal(record(after), "", "salt"))
            chain.compare(None, "", T0)
            assert (chain.broken is None) == (after.status == "cleared" or after.expires_at is not UNSET)


def test_lives_are_linked() -> None:
    first = life()
    second = life(2, head=str(first[-1].hash), epoch="e2")
    assert check([*first, *second]).broken is None
    unlinked = life(2, epoch="e2")
    broken = check([*first, *unlinked]).broken
    assert broken is not None
    assert broken.id == unlinked[0].id


def test_a_state_that_was_past_its_time_may_be_gone_without_an_end() -> None:
    mortal = structs.replace(fresh(), expires_at=T0 + timedelta(hours=1))
    first = [seal(record(mortal), "", "salt")]
    late = structs.replace(fresh(epoch="e2"), updated_at=T0 + timedelta(hours=2))
    early = structs.replace(late, updated_at=T0 + timedelta(minutes=59))
    assert check([*first, seal(record(late), "", "salt")]).broken is None
    assert check([*first, seal(record(early), "", "salt")]).broken is not None


def test_old_records_may_be_pruned() -> None:
    records = life()
    assert check(records[2:], records, pruned=True).broken is None
    assert check(records[2:], records).broken is not None


def test_an_intact_record_is_told_from_a_changed_one() -> None:
    records = life(1)
    assert is_intact(records[0])
    assert is_intact(erased(records[0]))
    assert is_intact(record(fresh())), "older than the chain"
    assert not is_intact(structs.replace(records[0], actor="eve"))
    assert not is_intact(structs.replace(records[0], payload={}))


def test_the_same_values_in_another_order_are_the_same() -> None:
    """As JSON text does not promise to keep an order, a hash must not depend on it."""
    one = seal(record(fresh(payload={"a": 1, "b": 2})), "", "salt")
    assert one.after is not UNSET
    turned = structs.replace(one, after=structs.replace(one.after, payload={"b": 2, "a": 1}))
    assert is_intact(turned)


def test_the_format_is_fixed() -> None:
    """A hash that was written must verify for ever: a change of the format needs a new one beside it."""
    sealed = seal(record(fresh(payload={"n": 1})), "", "salt")
    assert sealed.commitment == "a62ff90ee403f562a2b646213a11435659f4e4ef2172c9a83f95de3ab544871e"
    assert sealed.hash == "06c46de512a5c68ff30c0f876463b6903da45450cfebe17f89ecf91f10038ec9"
