"""The hash chain over a state's records: each record's hash covers itself and the hash before it.

The hash covers a commitment to the payload and to other input instead of these (app.flow.history_forms), so
that a record whose payload was erased still links its neighbours.

A record that claims another form than its own does not match its hash, as the tags differ. No commit may
have an older form than the commit before it. A refused attempt is linked to the commit before it, and
nothing to it.

An erasure leaves a receipt in the chain: a record of the kind ``erased`` for the data of the owner, one of
the kind ``pseudonymised`` for the id of another person.
"""

from datetime import datetime

from msgspec import UNSET, UnsetType, structs

from app.contracts.people import is_pseudonym
from app.contracts.pseudonyms import NAMING
from app.contracts.record import HistoryRecord, UnreadableRecord, commit_record_id, named_payload
from app.contracts.results import BrokenLink
from app.contracts.state import TERMINAL_STATUSES, FlowState
from app.flow.history_forms import CURRENT_FORM, FORMS, commitment_of, fault_of, hash_of, version_of
from app.kit.hash_chain import link_fault


def seal(record: HistoryRecord, previous_hash: str, salt: str) -> HistoryRecord:
    """Return the record as the next link after ``previous_hash``, which is "" for the first record."""
    form = FORMS[CURRENT_FORM]
    commitment = commitment_of(record, form, salt)
    return structs.replace(
        record,
        previous_hash=previous_hash,
        commitment=commitment,
        salt=salt,
        hash_version=CURRENT_FORM,
        hash=hash_of(record, form, previous_hash, commitment),
    )


def is_intact(record: HistoryRecord) -> bool:
    """True if a record was not changed since it was sealed, erasure apart; a record without a hash counts."""
    if record.hash is UNSET:
        return True
    return fault_of(record) is None


def is_receipt(record: HistoryRecord) -> bool:
    """True if a record stands for an erasure of the records before it."""
    return record.kind == "erased" and record.after is not UNSET and record.after.status == "cleared"


class _PeopleOfChain:
    """Checks the salts and the pseudonyms of people along a chain.

    ``unreceipted`` is the first commit with a pseudonym that no receipt before or after it explains.
    """

    def __init__(self, *, pruned: bool) -> None:
        self.unreceipted: HistoryRecord | None = None
        self._pruned = pruned
        self._unexplained: set[str] = set()
        self._explained: set[str] = set()
        self._salts: dict[str, str] = {}
        self._epoch = ""

    def fault_of(self, record: HistoryRecord) -> str | None:
        """Add a commit; return a contradiction to those before it."""
        found = _pseudonyms_in(record)
        if record.kind == "pseudonymised":
            self._explained |= self._unexplained | found
            self._unexplained.clear()
            self.unreceipted = None
        elif self._pruned:  # the receipt of what the oldest record has may have been removed
            self._explained |= found
        elif found - self._explained:
            self._unexplained |= found - self._explained
            self.unreceipted = self.unreceipted or record
        self._pruned = False
        people = () if record.after is UNSET or record.after.people is UNSET else record.after.people
        before = self._salts if record.epoch == self._epoch else {}  # a lost document loses the salts
        self._salts, self._epoch = {person.user_id: person.salt for person in people}, record.epoch
        if any(before.get(user_id, salt) != salt for user_id, salt in self._salts.items()):
            return "its salt of a person is not the one of the record before it"
        return None


def _pseudonyms_in(record: HistoryRecord) -> set[str]:
    """Return the pseudonyms that a record has in the place of ids."""
    found = set()
    if record.actor_salt is UNSET and is_pseudonym(record.actor):
        found.add(record.actor)
    if record.after is UNSET:
        return found
    for member in NAMING:
        entries = getattr(record.after, member)
        if entries is not UNSET:
            found.update(e.user_id for e in entries if e.user_id is not UNSET and is_pseudonym(e.user_id))
    if found and record.after.people is not UNSET:  # an id with a salt is an id, however it looks
        found.difference_update(person.user_id for person in record.after.people)
    return found


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
        self._people = _PeopleOfChain(pruned=pruned)

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
            fault = self._people.fault_of(record)
            if fault is not None:
                self._break(record.id, fault)
            self._last = record

    def close(self) -> None:
        """Check what only the end of the history shows: that every erasure has a receipt."""
        if self._unreceipted is not None:
            self._break(self._unreceipted.id, "its payload is missing without a receipt of an erasure")
        if self._people.unreceipted is not None:
            self._break(
                self._people.unreceipted.id,
                "it has the pseudonym of a person without a receipt of an erasure",
            )

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
        fault = fault_of(record)
        if fault is not None:
            self._break(record.id, fault)
        if record.salt is UNSET:
            self.erased += 1
            self._unreceipted = self._unreceipted or record
        elif is_receipt(record):
            self._unreceipted = None
        last = self._last
        head = None if last is None else self.head
        fault = link_fault(head, record.previous_hash or "", "record", pruned=self._pruned and last is None)
        if fault is not None and (last is None or not _follows_expired_state(last, record)):
            self._break(record.id, fault)
        elif last is not None and last.hash is not UNSET and version_of(record) < version_of(last):
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
