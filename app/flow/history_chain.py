"""The hash chain over a state's records: each record's hash covers itself and the hash before it.

``hash`` = SHA-256 of the deterministic JSON of ``[tag, previous_hash, commitment, facts]``, ``commitment`` =
SHA-256 of the salt and the deterministic JSON of the erasable members. A record whose payload was erased
therefore still links its neighbours. Absent members are left out of the JSON.

The tag names the form of the hash, and ``hash_version`` is the form of a record. Form 1 is the one of
versions 0.2 to 0.4; form 2 also covers ``digest``, and the flow and the user of the state. A record that
names the payload of another one (``payload_revision``) covers the number instead of the payload, which the
other one covers. A record that claims another form than its own does not match its hash, as the tags differ.
No commit may have an older form than the commit before it. A refused attempt is linked to the commit before
it, and nothing to it.
"""

from datetime import datetime
from hashlib import sha256
from typing import Any

from msgspec import UNSET, Struct, UnsetType, json, structs

from app.contracts.record import (
    ERASABLE,
    ERASABLE_AFTER,
    HistoryRecord,
    UnreadableRecord,
    commit_record_id,
    named_payload,
)
from app.contracts.results import BrokenLink
from app.contracts.state import TERMINAL_STATUSES, FlowState
from app.contracts.wire.times import iso

SEALED = (
    "id",
    "commit_id",
    "flow_id",
    "user_id",
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
)
LINK = ("previous_hash", "commitment", "hash_version", "hash")
"""Members of a record that make the chain. The tag covers ``hash_version``."""
NOT_SEALED = ("duration_ms",)
"""Members of a record outside the hash: the duration is known only after the commit."""


class _Form(Struct, frozen=True):
    """The members that the hash of a record covers, and the tag of the form."""

    tag: str
    sealed_after: tuple[str, ...]
    erasable: tuple[str, ...]


CURRENT_FORM = 2
_FORMS = {
    1: _Form(
        "flow-record-1",
        tuple(name for name in SEALED_AFTER if name not in ("flow", "user_id")),
        tuple(name for name in ERASABLE if name != "digest"),
    ),
    CURRENT_FORM: _Form("flow-record-2", SEALED_AFTER, ERASABLE),
}


def seal(record: HistoryRecord, previous_hash: str, salt: str) -> HistoryRecord:
    """Return the record as the next link after ``previous_hash``, which is "" for the first record."""
    form = _FORMS[CURRENT_FORM]
    commitment = _commitment(record, form, salt)
    return structs.replace(
        record,
        previous_hash=previous_hash,
        commitment=commitment,
        salt=salt,
        hash_version=CURRENT_FORM,
        hash=_hash(record, form, previous_hash, commitment),
    )


def is_intact(record: HistoryRecord) -> bool:
    """True if a record was not changed since it was sealed, erasure apart; a record without a hash counts."""
    if record.hash is UNSET:
        return True
    return _fault(record) is None


def is_receipt(record: HistoryRecord) -> bool:
    """True if a record stands for an erasure of the records before it."""
    return record.kind == "erased" and record.after is not UNSET and record.after.status == "cleared"


def is_erased(record: HistoryRecord) -> bool:
    """True if the data entered with a record was erased."""
    return record.hash is not UNSET and record.salt is UNSET


class Chain:
    """Checks the records of a state one by one, in their order; ``broken`` is the first that does not fit.

    Args:
        pruned: True if old records may be missing, as the history is retained for a limited time.
    """

    def __init__(self, *, pruned: bool = False) -> None:
        self.broken: BrokenLink | None = None
        self.records = 0
        self.unsealed = 0
        self.erased = 0
        self._pruned = pruned
        self._last: HistoryRecord | None = None
        self._unreceipted: HistoryRecord | None = None
        self._with_payload: HistoryRecord | None = None

    @property
    def head(self) -> str:
        """The hash of the last commit; "" if there is none, or if it is older than the chain."""
        return "" if self._last is None or self._last.hash is UNSET else self._last.hash

    def add(self, record: HistoryRecord | UnreadableRecord) -> None:
        """Check the next record."""
        self.records += 1
        if isinstance(record, UnreadableRecord):
            self._break(record.id, f"it cannot be read ({record.reason})")
            return
        if record.hash is UNSET:
            self.unsealed += 1
            if self.head:
                self._break(record.id, "it has no hash, though the one before it has")
        else:
            self._add_sealed(record)
        if record.success:
            self._follow_payload(record)
            self._last = record

    def close(self) -> None:
        """Check what only the end of the history shows: that every erasure has a receipt."""
        if self._unreceipted is not None:
            self._break(self._unreceipted.id, "its payload is missing without a receipt of an erasure")

    def compare(self, state: FlowState | None, head: str, now: datetime) -> None:
        """Check that the chain leads to the stored state.

        Args:
            state: The stored state; None if there is none, which is right if it may have been removed by now.
            head: The hash in the state's document.
            now: The present time.
        """
        last = self._last
        if last is None or last.after is UNSET:
            if state is not None and not self._pruned:
                self._break("", "the state has no record")
        elif state is None:
            if last.after.status not in TERMINAL_STATUSES and not _has_expired(last.after, now):
                self._break(last.id, "the state that it led to is missing")
        elif last.id != commit_record_id(state):
            self._break(
                last.id, f"the state is at {state.epoch}.{state.revision}, for which there is no record"
            )
        elif head != self.head:
            self._break(last.id, "the hash in the state's document is another one")
        elif self._with_its_payload(last, state) != state:
            self._break(last.id, "the state differs from the one that it led to")

    def _follow_payload(self, record: HistoryRecord) -> None:
        """Check that a record which names a payload names the last one before it."""
        if record.payload_revision is UNSET:
            self._with_payload = record
            return
        last = self._with_payload
        known = None if last is None else (last.epoch, last.revision)
        if known != (record.epoch, record.payload_revision) and not (self._pruned and known is None):
            self._break(
                record.id, f"it names the payload of revision {record.payload_revision}, not the last"
            )

    def _with_its_payload(self, last: HistoryRecord, state: FlowState) -> FlowState | UnsetType:
        """Return the state that the last record led to, with its payload.

        If the record of the payload was pruned, the payload is that of the present state.
        """
        if named_payload(last) is None or last.after is UNSET:
            return last.after
        source = self._with_payload
        made = None if source is None else source.after
        return structs.replace(last.after, payload=(made or state).payload)

    def _add_sealed(self, record: HistoryRecord) -> None:
        fault = _fault(record)
        if fault is not None:
            self._break(record.id, fault)
        if record.salt is UNSET:
            self.erased += 1
            self._unreceipted = self._unreceipted or record
        elif is_receipt(record):
            self._unreceipted = None
        last = self._last
        if last is None:
            if record.previous_hash != "" and not self._pruned:
                self._break(record.id, "the records before it are missing")
        elif record.previous_hash != self.head and not _follows_expired_state(last, record):
            self._break(record.id, "it does not follow the record before it")
        elif last.hash is not UNSET and _version(record) < _version(last):
            self._break(record.id, "its hash has an older form than the one before it")

    def _break(self, record_id: str, reason: str) -> None:
        self.broken = self.broken or BrokenLink(record_id, reason)


def _follows_expired_state(last: HistoryRecord, record: HistoryRecord) -> bool:
    """True if the chain restarts because MongoDB removed an expired state before a worker ended it."""
    if record.previous_hash != "" or record.epoch == last.epoch or last.after is UNSET:
        return False
    return _has_expired(last.after, record.timestamp)


def _has_expired(state: FlowState, now: datetime) -> bool:
    """True if MongoDB may have removed a state by ``now``.

    Its TTL index uses ``expires_at`` alone, also for a state that a version before 0.5 paused.
    """
    return state.expires_at is not UNSET and state.expires_at <= now


def _version(record: HistoryRecord) -> int:
    """Return the form of a record's hash; records of the first form have no number."""
    return 1 if record.hash_version is UNSET else record.hash_version


def _fault(record: HistoryRecord) -> str | None:
    form = _FORMS.get(_version(record))
    if form is None:
        return f"its hash has the form {_version(record)}, which this version does not know"
    if record.previous_hash is UNSET or record.commitment is UNSET:
        return "its link is incomplete"
    if record.salt is not UNSET and _commitment(record, form, record.salt) != record.commitment:
        return "its payload is not the one that was committed"
    if record.salt is UNSET and (_erasable(record, form) or record.digest is not UNSET):
        return "it was erased, and has a payload again"
    if _hash(record, form, record.previous_hash, record.commitment) != record.hash:
        return "it was changed"
    return None


def _hash(record: HistoryRecord, form: _Form, previous_hash: str, commitment: str) -> str:
    facts = _values_of(record, SEALED)
    if record.after is not UNSET:
        facts["after"] = _values_of(record.after, form.sealed_after)
    whole = json.encode([form.tag, previous_hash, commitment, facts], order="deterministic")
    return sha256(whole).hexdigest()


def _commitment(record: HistoryRecord, form: _Form, salt: str) -> str:
    erasable = _erasable(record, form)
    if record.after is not UNSET:
        erasable.setdefault("after", {})
    return sha256(salt.encode() + json.encode(erasable, order="deterministic")).hexdigest()


def _erasable(record: HistoryRecord, form: _Form) -> dict[str, Any]:
    erasable = _values_of(record, form.erasable)
    after = {} if record.after is UNSET else _values_of(record.after, ERASABLE_AFTER)
    if record.payload_revision is not UNSET:
        after.pop("payload", None)
    return {**erasable, "after": after} if after else erasable


def _values_of(of: HistoryRecord | FlowState, names: tuple[str, ...]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name in names:
        value = getattr(of, name)
        if value is not UNSET:
            members[name] = iso(value) if isinstance(value, datetime) else value
    return members
