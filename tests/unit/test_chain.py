"""The chain over a state's records: whole when nothing was changed, broken at the right place when
anything was."""

from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import combinations_with_replacement
from typing import Any

import pytest
from msgspec import UNSET, json, structs

from app.contracts.record import (
    ERASABLE,
    ERASABLE_AFTER,
    HistoryRecord,
    MergedField,
    UnreadableRecord,
    as_stored,
    state_after,
)
from app.contracts.wire.times import iso
from app.flow.history_chain import Chain, is_intact, seal
from app.flow.history_forms import (
    CURRENT_FORM,
    FORMS,
    LINK,
    NOT_SEALED,
    SEALED,
    SEALED_AFTER,
    commitment_of,
    hash_of,
)
from tests.support.samples import T0, fresh, full_record, moved, record

Records = list[HistoryRecord]


def life(count: int = 4, *, head: str = "", **first: Any) -> Records:
    """A state's records: started, then moved ``count - 1`` times."""
    made: Records = []
    state = fresh(payload={"iban": "DE02"}, entity_id="org", **first)
    for n in range(count):
        before = made[-1].hash if made else head
        made.append(seal(structs.replace(record(state), digest=f"d-{n}"), before, f"salt-{n}"))  # type: ignore[arg-type]
        state = moved(state, message="note")
    return made


def erased(one: HistoryRecord) -> HistoryRecord:
    assert one.after is not UNSET
    bare = structs.replace(one.after, payload=UNSET, message=UNSET, entity_id=UNSET)
    absent = dict.fromkeys((*ERASABLE, "salt"), UNSET)
    return structs.replace(one, **absent, after=bare)


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


def test_an_unchanged_chain_is_intact() -> None:
    records = life()
    chain = check(records, records)
    assert (chain.broken, chain.records, chain.unsealed, chain.erased) == (None, 4, 0, 0)
    assert chain.head == records[-1].hash


CHANGES: dict[str, Callable[[HistoryRecord], HistoryRecord]] = {
    "actor": lambda r: structs.replace(r, actor="eve"),
    "to step": lambda r: structs.replace(r, to_step="c"),
    "time": lambda r: structs.replace(r, timestamp=r.timestamp + timedelta(milliseconds=1)),
    "payload": lambda r: structs.replace(r, payload={"given": 2}),
    "payload missing": lambda r: structs.replace(r, payload=UNSET),
    "state after": lambda r: structs.replace(r, after=structs.replace(state_after(r), ok=False)),
    "payload after": lambda r: structs.replace(
        r, after=structs.replace(state_after(r), payload={"iban": "DE99"})
    ),
    "request": lambda r: structs.replace(r, request_id="other"),
    "digest": lambda r: structs.replace(r, digest="other"),
    "digest missing": lambda r: structs.replace(r, digest=UNSET),
    "form": lambda r: structs.replace(r, hash_version=UNSET),
    "unknown form": lambda r: structs.replace(r, hash_version=5),
    "form and digest": lambda r: structs.replace(r, hash_version=UNSET, digest="other"),
    "salt": lambda r: structs.replace(r, salt="pepper"),
    "salt missing": lambda r: structs.replace(r, salt=UNSET),
    "commitment": lambda r: structs.replace(r, commitment="0" * 64),
    "hash": lambda r: structs.replace(r, hash="0" * 64),
    "hash missing": lambda r: structs.replace(r, hash=UNSET),
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


@pytest.mark.parametrize(("missing", "found_at"), [(0, 1), (1, 2), (2, 3)])
def test_the_next_record_reveals_a_missing_one(missing: int, found_at: int) -> None:
    records = life()
    broken = check([r for n, r in enumerate(records) if n != missing], records).broken
    assert broken is not None
    assert broken.id == records[found_at].id


def test_the_state_reveals_that_the_last_record_is_missing() -> None:
    records = life()
    broken = check(records[:-1], records).broken
    assert broken is not None
    assert broken.id == records[-2].id
    assert check(records[:-1]).broken is None, "without a state nothing reveals it"


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
    assert check(records, records).broken is None, "nothing reveals the missing record"
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


def test_a_record_that_only_claims_to_be_a_receipt_is_none() -> None:
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


def test_a_state_may_be_missing_if_it_has_ended_or_expired() -> None:
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


def test_an_expired_state_may_be_missing_without_an_end() -> None:
    mortal = structs.replace(fresh(), expires_at=T0 + timedelta(hours=1))
    first = [seal(record(mortal), "", "salt")]
    late = structs.replace(fresh(epoch="e2"), updated_at=T0 + timedelta(hours=2))
    early = structs.replace(late, updated_at=T0 + timedelta(minutes=59))
    assert check([*first, seal(record(late), "", "salt")]).broken is None
    assert check([*first, seal(record(early), "", "salt")]).broken is not None


def test_a_paused_state_may_be_missing_only_if_mongodb_could_remove_it() -> None:
    for expires_at, whole in (
        (T0, True),
        (UNSET, False),
    ):  # as versions before 0.5 paused it; as this one does
        chain = Chain()
        chain.add(seal(record(structs.replace(fresh(), status="paused", expires_at=expires_at)), "", "salt"))
        chain.compare(None, "", T0)
        assert (chain.broken is None) == whole


def test_old_records_may_be_pruned() -> None:
    records = life()
    assert check(records[2:], records, pruned=True).broken is None
    assert check(records[2:], records).broken is not None


def test_an_intact_record_is_reported_from_a_changed_one() -> None:
    records = life(1)
    assert is_intact(records[0])
    assert is_intact(erased(records[0]))
    assert is_intact(record(fresh())), "older than the chain"
    assert not is_intact(structs.replace(records[0], actor="eve"))
    assert not is_intact(structs.replace(records[0], payload={}))


def test_the_same_values_in_another_order_are_the_same() -> None:
    """The hash must not depend on the order of members, which JSON does not define."""
    one = seal(record(fresh(payload={"a": 1, "b": 2})), "", "salt")
    assert one.after is not UNSET
    turned = structs.replace(one, after=structs.replace(one.after, payload={"b": 2, "a": 1}))
    assert is_intact(turned)


def older_form(one: HistoryRecord, previous_hash: str, salt: str, form: int) -> HistoryRecord:
    """A record as versions 0.2 to 0.4 (form 1) and the first ones of 0.5 (2 and 3) sealed it (decision 8)."""
    if form == 3:
        commitment = commitment_of(one, FORMS[3], salt)
        linked = hash_of(one, FORMS[3], previous_hash, commitment)
        link = {"previous_hash": previous_hash, "commitment": commitment, "salt": salt, "hash": linked}
        return structs.replace(one, hash_version=3, **link)
    uncovered = {"flow", "user_id", "digest"} if form == 1 else set()
    facts = {n: plain(v) for n in SEALED if (v := getattr(one, n)) is not UNSET}
    erasable = {
        n: v
        for n in ("payload", "request_id", "digest")
        if n not in uncovered and (v := getattr(one, n)) is not UNSET
    }
    if one.after is not UNSET:
        covered = set(SEALED_AFTER) - uncovered
        facts["after"] = {n: plain(v) for n in covered if (v := getattr(one.after, n)) is not UNSET}
        erasable["after"] = {n: v for n in ERASABLE_AFTER if (v := getattr(one.after, n)) is not UNSET}
    commitment = sha256(salt.encode() + json.encode(erasable, order="deterministic")).hexdigest()
    whole = [f"flow-record-{form}", previous_hash, commitment, facts]
    linked = sha256(json.encode(whole, order="deterministic")).hexdigest()
    link = {"previous_hash": previous_hash, "commitment": commitment, "salt": salt, "hash": linked}
    return structs.replace(one, hash_version=UNSET if form == 1 else form, **link)


def first_form(one: HistoryRecord, previous_hash: str, salt: str) -> HistoryRecord:
    return older_form(one, previous_hash, salt, 1)


def plain(value: Any) -> Any:
    return iso(value) if isinstance(value, datetime) else value


def mixed_life(*forms: int) -> Records:
    """A state that began under older versions and went on under this one: the forms of its records."""
    made: Records = []
    for n, (form, one) in enumerate(zip(forms, life(len(forms)), strict=True)):
        bare = structs.replace(one, hash_version=UNSET, hash=UNSET, commitment=UNSET, salt=UNSET)
        before, salt = str(made[-1].hash) if made else "", f"salt-{n}"
        made.append(
            seal(bare, before, salt) if form == CURRENT_FORM else older_form(bare, before, salt, form)
        )
    return made


def test_the_first_form_is_fixed() -> None:
    """A hash that was written must verify for ever: a change of the format needs a new form beside it."""
    sealed = first_form(record(fresh(payload={"n": 1})), "", "salt")
    assert sealed.commitment == "a62ff90ee403f562a2b646213a11435659f4e4ef2172c9a83f95de3ab544871e"
    assert sealed.hash == "06c46de512a5c68ff30c0f876463b6903da45450cfebe17f89ecf91f10038ec9"
    assert is_intact(sealed)


def test_the_second_form_is_fixed() -> None:
    sealed = older_form(structs.replace(record(fresh(payload={"n": 1})), digest="d"), "", "salt", 2)
    assert sealed.commitment == "04867875d6bb4fa4e0bd39346cf1a438d09bd6924f8fc5eb63d52455106082d9"
    assert sealed.hash == "a5f00f41ef16f028b23fa6731cd4c8006150fc34dd2c0995e9f8a6b27a394126"
    assert is_intact(sealed)


def test_the_third_form_is_fixed() -> None:
    sealed = older_form(structs.replace(record(fresh(payload={"n": 1})), digest="d"), "", "salt", 3)
    assert sealed.commitment == "04867875d6bb4fa4e0bd39346cf1a438d09bd6924f8fc5eb63d52455106082d9"
    assert sealed.hash == "44f8d3291171fce0e2b6c4c7835c59f539b9c249b4fc4cd3cac8a32b7ccc020a"
    assert is_intact(sealed)
    whole = older_form(structs.replace(full_record(), merged=UNSET), "before", "salt", 3)
    assert whole.commitment == "eef8d70b178440d55d8c46ba98221f0ac73697fc660077f319c5f8dc0d918a7c"
    assert whole.hash == "faecbec91613dfc69963f367648b2c0bc40e52e2a6c2c071af472adb24eee3cb"


def test_the_fourth_form_is_fixed() -> None:
    sealed = seal(structs.replace(record(fresh(payload={"n": 1})), digest="d"), "", "salt")
    assert sealed.hash_version == CURRENT_FORM == 4
    assert sealed.commitment == "04867875d6bb4fa4e0bd39346cf1a438d09bd6924f8fc5eb63d52455106082d9"
    assert sealed.hash == "490a60176d63c94887479cd27c57482138283300d7877f39fa1df9e716f1649e"
    whole = full_record()
    assert whole.commitment == "6fc83947a56cfda25ca2d1680f8a3d6ad75f2b79cc259eba5248c4f26700781c"
    assert whole.hash == "b9120245c77332c5c5b49b15ec0fea3f3f95a4b42537a9e528bb983e142f5082"


def test_the_values_of_a_merge_are_covered_until_they_are_erased() -> None:
    """Also which of two values there was none of, which is not ``null``."""
    bare = structs.replace(record(fresh()), merged=(MergedField("/amount", theirs=1, ours=None),))
    sealed = seal(bare, "", "salt")
    assert is_intact(sealed)
    others = [
        UNSET,
        (),
        (MergedField("/amount", theirs=2, ours=None),),
        (MergedField("/amount", theirs=1),),
        (MergedField("/other", theirs=1, ours=None),),
        (MergedField("/amount", theirs=None, ours=1),),
    ]
    for merged in others:
        assert not is_intact(structs.replace(sealed, merged=merged)), merged
    assert not is_intact(structs.replace(seal(record(fresh()), "", "salt"), merged=bare.merged))
    gone = erased(sealed)
    assert (gone.merged, is_intact(gone)) == (UNSET, True)
    assert not is_intact(structs.replace(gone, merged=bare.merged))


@pytest.mark.parametrize("form", [1, 2, 3])
def test_a_record_of_an_older_form_has_no_merge(form: int) -> None:
    sealed = older_form(record(fresh(payload={"n": 1})), "", "salt", form)
    assert not is_intact(structs.replace(sealed, merged=(MergedField("/n", 1, 2),)))


@pytest.mark.parametrize("form", [1, 2])
def test_a_record_of_an_older_form_has_no_members_of_later_ones(form: int) -> None:
    """Its hash does not cover them, so anybody could add them."""
    bare = record(fresh(payload={"n": 1}))
    sealed = older_form(bare, "", "salt", form)
    assert is_intact(sealed)
    state, whole = state_after(sealed), state_after(full_record())
    for name in ("instance_id", "participants", "awaits", "claims", "votes", "runs", "people"):
        added = structs.replace(state, **{name: getattr(whole, name)})
        assert not is_intact(structs.replace(sealed, after=added)), name
    assert not is_intact(structs.replace(sealed, actor_salt="salt"))
    assert not is_intact(structs.replace(sealed, instance_id="E-1"))


def test_a_chain_of_all_forms_is_intact() -> None:
    for forms in combinations_with_replacement((1, 2, 3, 4), 4):
        records = mixed_life(*forms)
        assert check(records, records).broken is None, forms
    for forms in ((1, 2, 1, 2), (1, 2, 3, 2), (3, 1, 1, 1), (1, 3, 4, 3)):
        records = mixed_life(*forms)
        broken = check(records, records).broken
        older = next(n for n in range(1, 4) if forms[n] < forms[n - 1])
        assert broken is not None
        assert broken.id == records[older].id, forms
    ending = record(moved(moved(moved(moved(fresh()))), status="cleared"), kind="erased")
    life = mixed_life(1, 2, 3, 4)
    whole = [*map(erased, life), seal(ending, str(life[-1].hash), "salt")]
    chain = check(whole, whole)
    assert (chain.broken, chain.erased) == (None, 4)


def test_the_first_form_covers_no_digest_and_has_its_own_tag() -> None:
    """Known limit of records of versions 0.2 to 0.4 (decision 8)."""
    records = mixed_life(1, 1, 4, 4)
    assert check([structs.replace(records[0], digest="other"), *records[1:]], records).broken is None
    broken = check([*records[:2], structs.replace(records[2], digest="other"), records[3]], records).broken
    assert broken is not None
    assert broken.id == records[2].id


@pytest.mark.parametrize("at", [1, 2, 3])
def test_who_seals_a_record_anew_in_the_older_form_is_found(at: int) -> None:
    """Even who rewrites all that follows, and the state, is found unless the rewrite begins where the form
    changes."""
    records = life()
    forged = [*records]
    for n in range(at, len(records)):
        bare = structs.replace(records[n], digest="other", hash_version=UNSET)
        forged[n] = first_form(bare, str(forged[n - 1].hash), "salt")
    alone = check([*records[:at], forged[at], *records[at + 1 :]], records).broken
    assert alone is not None
    assert alone.id == records[at].id
    whole = check(forged, forged).broken
    assert whole is not None
    assert whole.id == records[at].id


def sharing_life(named: int = 0) -> Records:
    """A state whose second to fourth record leave its payload as it was."""
    made = life(1)
    state = state_after(made[0])
    for n in range(1, 4):
        state = moved(state)
        bare = structs.replace(record(state), payload_revision=named if n == 2 else 0)
        made.append(seal(bare, str(made[-1].hash), f"salt-{n}"))
    return made


def test_a_payload_that_is_named_is_covered_by_its_own_record() -> None:
    records = sharing_life()
    read = [*map(as_stored, records)]
    assert [state_after(r).payload for r in read[1:]] == [UNSET] * 3
    assert check(read, records).broken is None
    assert check(records, records).broken is None, "whether or not it was looked up"
    forged = structs.replace(state_after(records[0]), payload={"iban": "DE99"})
    broken = check([structs.replace(read[0], after=forged), *read[1:]], records).broken
    assert broken is not None
    assert broken.id == read[0].id
    chain = Chain()
    for one in read:
        chain.add(one)
    chain.compare(structs.replace(state_after(records[-1]), payload={"iban": "DE99"}), chain.head, T0)
    assert chain.broken is not None
    assert chain.broken.id == read[-1].id


def test_a_record_names_the_last_payload_before_it() -> None:
    records = sharing_life(named=1)
    broken = check([*map(as_stored, records)], records).broken
    assert broken is not None
    assert broken.id == records[2].id


def test_a_payload_that_is_named_may_be_pruned_before_what_names_it() -> None:
    records = sharing_life()
    assert check([as_stored(r) for r in records[2:]], records, pruned=True).broken is None
    assert check([as_stored(r) for r in records[2:]], records).broken is not None


def test_an_erased_record_that_named_a_payload_is_intact() -> None:
    records = [*map(erased, map(as_stored, sharing_life()))]
    end = moved(state_after(sharing_life()[-1]), status="cleared", payload=UNSET, entity_id=UNSET)
    ending = seal(record(end, kind="erased"), str(records[-1].hash), "salt")
    assert check([*records, ending], [ending]).broken is None


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, datetime):
        return value + timedelta(milliseconds=1)
    if isinstance(value, tuple):
        return value[:-1]
    return {"other": value} if isinstance(value, dict) else f"{value}x"


def test_each_group_of_members_is_covered_as_declared() -> None:
    """Sealed and erasable members cannot change, or vanish, unnoticed; members listed as not sealed can,
    salts apart."""
    whole = full_record()
    assert is_intact(whole)
    naming = seal(structs.replace(whole, payload_revision=0), "before", "salt")
    for revision in (1, UNSET):
        assert not is_intact(structs.replace(naming, payload_revision=revision))
    assert not is_intact(structs.replace(whole, payload_revision=0))
    unsealed = [name for name in NOT_SEALED if name != "actor_salt"]
    groups = (*SEALED, *LINK, *ERASABLE, "salt", *NOT_SEALED)
    for name in (name for name in groups if name != "payload_revision"):
        value = getattr(whole, name)
        assert value is not UNSET, name
        assert is_intact(structs.replace(whole, **{name: other(value)})) == (name in unsealed), name
        if name != "hash":  # then it counts as older than the chain, and breaks the chain there
            assert is_intact(structs.replace(whole, **{name: UNSET})) == (name in unsealed), name
    after = whole.after
    assert after is not UNSET
    for name in (*SEALED_AFTER, *ERASABLE_AFTER, "people"):
        value = getattr(after, name)
        assert value is not UNSET, name
        for changed in (other(value), UNSET):
            forged = structs.replace(after, **{name: changed})
            assert not is_intact(structs.replace(whole, after=forged)), name
    assert not is_intact(structs.replace(whole, after=UNSET))
