"""The hash chain over the audit log: the hash of an entry, and the check of a sequence of entries."""

from msgspec import UNSET, structs

from app.contracts.audit import AuditEntry, AuditVerification, BrokenEntry, UnreadableEntry
from app.contracts.wire.audit import covered_members
from app.kit.hash_chain import link_fault, link_hash

FORM = "flow-audit-1"
"""The tag of the form of the hash. The form is fixed: a hash that was written must verify for ever."""


def seal(entry: AuditEntry) -> AuditEntry:
    """Return the entry with its hash."""
    return structs.replace(entry, hash=hash_of(entry))


def hash_of(entry: AuditEntry) -> str:
    """Return the hash of an entry: that of ``[FORM, previous_hash, members]`` as deterministic JSON."""
    return link_hash(FORM, entry.previous_hash, covered_members(entry))


class AuditChain:
    """Checks entries one by one, in their order; ``broken`` is the first that does not fit.

    Args:
        expected_head: The hash of an entry that must be there, such as of the last one some time ago: the
            chain alone does not show that its end was cut off.
    """

    def __init__(self, expected_head: str = "") -> None:
        self.broken: BrokenEntry | None = None
        self._expected = expected_head
        self._entries = 0
        self._head: str | None = None
        self._unfinished: dict[int, AuditEntry] = {}

    def add(self, entry: AuditEntry | UnreadableEntry) -> None:
        """Check the next entry."""
        fault = entry.reason if isinstance(entry, UnreadableEntry) else self._fault_of(entry)
        if fault is not None and self.broken is None:
            expected = self._entries + 1  # a missing entry is reported, not the one after it
            self.broken = BrokenEntry(min(entry.sequence, expected) or expected, fault)
        self._entries += 1
        if isinstance(entry, AuditEntry):
            self._head = entry.hash
            if entry.hash == self._expected:
                self._expected = ""

    def result(self) -> AuditVerification:
        """Return the result over all entries."""
        if self._expected and self.broken is None:
            self.broken = BrokenEntry(
                self._entries + 1, "the entry with the expected hash is missing: the end was cut off"
            )
        return AuditVerification(self._entries, self._head or "", tuple(self._unfinished), self.broken)

    def _fault_of(self, entry: AuditEntry) -> str | None:
        expected = self._entries + 1
        if entry.sequence != expected:
            return f"the entry with the sequence {expected} is missing"
        if hash_of(entry) != entry.hash:
            return "it was changed"
        return link_fault(self._head, entry.previous_hash, "entry") or self._fault_of_pair(entry)

    def _fault_of_pair(self, entry: AuditEntry) -> str | None:
        """Return a contradiction between the second entry of an act and its first one."""
        if entry.outcome == "started":
            self._unfinished[entry.sequence] = entry
            return None if entry.of is UNSET else "it is the first entry of an act, and names another"
        first = None if entry.of is UNSET else self._unfinished.pop(entry.of, None)
        if first is None:
            return "it ends an act that no entry before it began"
        same = ("action", "target", "actor", "client", "subject")
        if any(getattr(first.act, name) != getattr(entry.act, name) for name in same):
            return "it ends another act than the entry that it names"
        return None
