"""The forms of a record's hash, and the members that each covers.

``hash`` = SHA-256 of the deterministic JSON of ``[tag, previous_hash, commitment, facts]``, ``commitment`` =
SHA-256 of the salt and the deterministic JSON of the erasable members. Absent members are left out of the
JSON. A record that names the payload of another one (``payload_revision``) covers the number instead of the
payload, which the other one covers.

The tag names the form, and ``hash_version`` is the form of a record:

* 1 is the one of versions 0.2 to 0.4;
* 2 also covers ``digest``, and the flow and the user of the state;
* 3 also covers the entity of one of many states, and the people of a state: their roles, claims, votes and
  transitions. It covers the pseudonyms of people, of whom the record has a salt, instead of their ids;
* 4 also covers, as erasable, the fields that a change merged.

Each form is fixed: a hash that was written must verify for ever.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any, get_args

from msgspec import UNSET, Struct, structs

from app.contracts.people import Claim, Participant, TransitionBy, pseudonym
from app.contracts.pseudonyms import pseudonyms_of
from app.contracts.record import ERASABLE, ERASABLE_AFTER, HistoryRecord
from app.contracts.state import FlowState
from app.contracts.wire.times import iso
from app.kit.hash_chain import json_hash, link_hash

SEALED = (
    "id",
    "commit_id",
    "flow_id",
    "user_id",
    "instance_id",
    "epoch",
    "revision",
    "version",
    "kind",
    "transition",
    "from_step",
    "to_step",
    "timestamp",
    "success",
    "service",
    "actor",
    "error",
    "client",
    "payload_revision",
)
SEALED_AFTER = (
    "flow",
    "user_id",
    "instance_id",
    "version",
    "epoch",
    "revision",
    "status",
    "step",
    "service",
    "ok",
    "created_at",
    "updated_at",
    "expires_at",
    "previous",
    "undo_roles",
    "timeout_at",
    "timeout_left_ms",
    "expiry_left_ms",
    "participants",
    "awaits",
    "claims",
    "votes",
    "runs",
)
LINK = ("previous_hash", "commitment", "hash_version", "hash")
"""Members of a record that make the chain. The tag covers ``hash_version``."""
NOT_SEALED = ("duration_ms", "actor_salt")
"""Members of a record outside the hash: the duration is known only after the commit; the salt must lead to
the pseudonym that the hash covers."""
NOT_SEALED_AFTER = ("people",)
"""Members of a state outside the hash: salts, which must lead to the pseudonyms that the hash covers."""

_TIMES = frozenset(
    field.name
    for shape in (HistoryRecord, FlowState)
    for field in structs.fields(shape)
    if datetime in (field.type, *get_args(field.type))
)
_SINCE_3 = ("instance_id", "actor_salt")
_SINCE_4 = ("merged",)
_SINCE_3_AFTER = ("instance_id", "participants", "awaits", "claims", "votes", "runs", "people")


class Form(Struct, frozen=True):
    """The members that the hash of a record covers, and the tag of the form.

    ``unknown`` and ``unknown_after`` are members that records of the form cannot have, as they came later.
    """

    tag: str
    sealed: tuple[str, ...]
    sealed_after: tuple[str, ...]
    erasable: tuple[str, ...]
    people: bool = False
    unknown: tuple[str, ...] = ()
    unknown_after: tuple[str, ...] = ()


def _before_3(tag: str, without: tuple[str, ...]) -> Form:
    return Form(
        tag,
        tuple(name for name in SEALED if name not in _SINCE_3),
        tuple(name for name in SEALED_AFTER if name not in (*_SINCE_3_AFTER, *without)),
        tuple(name for name in ERASABLE if name not in (*_SINCE_4, *without)),
        unknown=(*_SINCE_3, *_SINCE_4),
        unknown_after=_SINCE_3_AFTER,
    )


CURRENT_FORM = 4
FORMS: Mapping[int, Form] = {
    1: _before_3("flow-record-1", ("flow", "user_id", "digest")),
    2: _before_3("flow-record-2", ()),
    3: Form(
        "flow-record-3",
        SEALED,
        SEALED_AFTER,
        tuple(name for name in ERASABLE if name not in _SINCE_4),
        people=True,
        unknown=_SINCE_4,
    ),
    CURRENT_FORM: Form("flow-record-4", SEALED, SEALED_AFTER, ERASABLE, people=True),
}


def version_of(record: HistoryRecord) -> int:
    """Return the form of a record's hash; records of the first form have no number."""
    return 1 if record.hash_version is UNSET else record.hash_version


def fault_of(record: HistoryRecord) -> str | None:
    """Return why a sealed record is not as it was sealed; None if it is, erasures apart."""
    form = FORMS.get(version_of(record))
    if form is None:
        return f"its hash has the form {version_of(record)}, which this version does not know"
    if record.previous_hash is UNSET or record.commitment is UNSET:
        return "its link is incomplete"
    if _has_any(record, form.unknown) or (
        record.after is not UNSET and _has_any(record.after, form.unknown_after)
    ):
        return "it has members that its hash does not cover"
    if record.salt is not UNSET and commitment_of(record, form, record.salt) != record.commitment:
        return "its payload is not the one that was committed"
    if record.salt is UNSET and (_erasable(record, form) or record.digest is not UNSET):
        return "it was erased, and has a payload again"
    if hash_of(record, form, record.previous_hash, record.commitment) != record.hash:
        return "it was changed"
    if not _has_one_salt_each(record):
        return "it has two salts of one person"
    return None


def hash_of(record: HistoryRecord, form: Form, previous_hash: str, commitment: str) -> str:
    """Return the hash of a record."""
    facts = _values_of(record, form.sealed)
    if form.people and record.actor_salt is not UNSET:
        facts["actor"] = pseudonym(record.actor_salt, record.actor)
    if record.after is not UNSET:
        facts["after"] = _facts_after(record.after, form)
    return link_hash(form.tag, previous_hash, commitment, facts)


def commitment_of(record: HistoryRecord, form: Form, salt: str) -> str:
    """Return the commitment to the erasable members of a record."""
    erasable = _erasable(record, form)
    if record.after is not UNSET:
        erasable.setdefault("after", {})
    return json_hash(erasable, salt)


def _erasable(record: HistoryRecord, form: Form) -> dict[str, Any]:
    erasable = _values_of(record, form.erasable)
    after = {} if record.after is UNSET else _values_of(record.after, ERASABLE_AFTER)
    if record.payload_revision is not UNSET:
        after.pop("payload", None)
    return {**erasable, "after": after} if after else erasable


def _facts_after(state: FlowState, form: Form) -> dict[str, Any]:
    facts = _values_of(state, form.sealed_after)
    if form.people and not _ROWS.keys().isdisjoint(facts):
        names = pseudonyms_of(state.people)
        for member, row in _ROWS.items():
            if member in facts:
                facts[member] = [row(entry, names) for entry in facts[member]]
    return facts


def _participant_row(entry: Participant, names: Mapping[str, str]) -> list[Any]:
    group = None if entry.group is UNSET else entry.group
    return [entry.role, None if entry.user_id is UNSET else names.get(entry.user_id, entry.user_id), group]


def _claim_row(entry: Claim, names: Mapping[str, str]) -> list[Any]:
    return [entry.role, names.get(entry.user_id, entry.user_id), iso(entry.until)]


def _transition_row(entry: TransitionBy, names: Mapping[str, str]) -> list[Any]:
    return [entry.transition, names.get(entry.user_id, entry.user_id)]


_ROWS: Mapping[str, Callable[[Any, Mapping[str, str]], list[Any]]] = {
    "participants": _participant_row,
    "claims": _claim_row,
    "votes": _transition_row,
    "runs": _transition_row,
}
"""How the hash covers the entries of a state about people. Lists, as the names in structs may change."""


def _has_one_salt_each(record: HistoryRecord) -> bool:
    """Return whether a person has the same salt everywhere in a record."""
    if record.after is UNSET or record.after.people is UNSET:
        return True
    salts = {person.user_id: person.salt for person in record.after.people}
    if len(salts) != len(record.after.people):
        return False
    return record.actor_salt is UNSET or salts.get(record.actor, record.actor_salt) == record.actor_salt


def _has_any(of: HistoryRecord | FlowState, names: tuple[str, ...]) -> bool:
    return any(getattr(of, name) is not UNSET for name in names)


def _values_of(of: HistoryRecord | FlowState, names: tuple[str, ...]) -> dict[str, Any]:
    pairs = zip(names, _reader(names)(of))  # noqa: B905 - as long, and strict costs time
    members = {name: value for name, value in pairs if value is not UNSET}
    for name in _TIMES.intersection(members):
        members[name] = iso(members[name])
    return members


@cache
def _reader(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    return attrgetter(*names)
