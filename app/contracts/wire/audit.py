"""The JSON shape of audit entries: in answers, in exports, and below their hashes."""

from datetime import datetime
from typing import Any

from msgspec import UNSET, Struct, UnsetType, structs, to_builtins

from app.contracts.audit import AuditAct, AuditEntry, Details, Outcome
from app.contracts.wire.times import Time, iso


class AuditEntryView(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """An entry of the audit log, with the members of its act.

    ``hash`` is the SHA-256 of ``["flow-audit-1", previousHash, members]`` as JSON without spaces, with names
    in order; ``members`` are all others that are present.
    """

    sequence: int
    at: Time
    action: str
    target: str
    actor: str
    client: str
    subject: str | UnsetType = UNSET
    address: str | UnsetType = UNSET
    request_id: str | UnsetType = UNSET
    before: str | UnsetType = UNSET
    after: str | UnsetType = UNSET
    details: Details
    outcome: Outcome
    of: int | UnsetType = UNSET
    error: str | UnsetType = UNSET
    previous_hash: str
    hash: str


def audit_entry_view(entry: AuditEntry) -> AuditEntryView:
    """Return the view of an entry."""
    members = {**structs.asdict(entry.act), **structs.asdict(entry), "at": iso(entry.at)}
    del members["act"]
    return AuditEntryView(**members)


def audit_entry(view: AuditEntryView) -> AuditEntry:
    """Return the entry of a view.

    Raises:
        ValueError: Its time is none, or is not written as ``iso`` writes it.
    """
    members = structs.asdict(view)
    at = datetime.fromisoformat(view.at)
    if at.tzinfo is None or iso(at) != view.at:
        raise ValueError(f"at must be a time as 2026-01-31T12:00:00.000Z, not {view.at!r}")
    act = AuditAct(**{name: members.pop(name) for name in AuditAct.__struct_fields__})
    return AuditEntry(**{**members, "act": act, "at": at})


def covered_members(entry: AuditEntry) -> dict[str, Any]:
    """Return the members of an entry that its hash covers, as in its JSON."""
    members: dict[str, Any] = to_builtins(audit_entry_view(entry))
    del members["previousHash"], members["hash"]
    return members
