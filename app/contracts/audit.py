"""Audit entries: the permanent, chained record of administrative acts."""

from datetime import datetime
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

Outcome = Literal["started", "done", "failed"]

Details = dict[str, str | int | bool]


class AuditAct(Struct, frozen=True):
    """An administrative act, before it is recorded. It has no personal data of users, only pseudonyms.

    Args:
        action: The kind of the act, such as ``definition.update`` or ``user.erase``.
        target: The object of the act, such as ``flow:order`` or ``service:billing``.
        actor: The user id of the token, ``service:<alias>``, ``cli:<name of the account>``, or ``python``.
        client: ``http``, ``socket``, ``cli``, ``python``, or ``service`` for jobs of the service itself.
        subject: The keyed pseudonym of the user whose data the act concerns (``AuditPseudonyms``).
        address: The network address of the client; absent for commands and programs.
        request_id: The id of the request in the log.
        before: A SHA-256 of the object before the act: of a definition or a registration as deterministic
            JSON; of a state the hash of the last record in its history.
        after: The same after the act.
        details: Short facts.
    """

    action: str
    target: str
    actor: str
    client: str
    subject: str | UnsetType = UNSET
    address: str | UnsetType = UNSET
    request_id: str | UnsetType = UNSET
    before: str | UnsetType = UNSET
    after: str | UnsetType = UNSET
    details: Details = {}


class AuditEntry(Struct, frozen=True):
    """An entry of the audit log.

    ``sequence`` counts from 1 without gaps. Each act has two entries: ``started`` before it, and ``done`` or
    ``failed`` after it, whose ``of`` is the sequence of the first. ``error`` is the code of the failure.
    ``hash`` covers ``previous_hash`` and every other member.
    """

    sequence: int
    at: datetime
    act: AuditAct
    outcome: Outcome
    previous_hash: str
    hash: str
    of: int | UnsetType = UNSET
    error: str | UnsetType = UNSET


class UnreadableEntry(Struct, frozen=True):
    """A stored entry that cannot be read, as somebody changed it."""

    sequence: int
    reason: str


class AuditFilter(Struct, frozen=True):
    """Selects entries; None selects all. ``action`` may end with ``.*``, which stands for any ending."""

    action: str | None = None
    target: str | None = None
    actor: str | None = None
    subject: str | None = None
    since: datetime | None = None


class BrokenEntry(Struct, frozen=True):
    """The first entry that does not fit the chain."""

    sequence: int
    reason: str


class AuditVerification(Struct, frozen=True):
    """The result of checking the chain of entries.

    ``head`` is the hash of the last entry, "" if there is none. ``unfinished`` are the sequences of acts
    without a second entry: they run, or their process ended meanwhile.
    """

    entries: int
    head: str
    unfinished: tuple[int, ...] = ()
    broken: BrokenEntry | None = None
