"""Audit entries: the permanent, chained record of administrative acts."""

from datetime import datetime
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

Outcome = Literal["started", "done", "failed"]


class AuditAct(Struct, frozen=True):
    """An administrative act, before it is recorded.

    Args:
        action: What is done, such as ``definition.update`` or ``user.erase``.
        target: What it is done to, such as ``flow:order``; an erased user is named by a pseudonym alone.
        actor: The user id of the token, ``service:<alias>``, or ``cli:<name of the account>``.
        client: ``http``, ``socket``, ``cli`` or ``python``.
        address: The network address of the client; absent for commands and programs.
        request_id: The id of the request in the log.
        before: SHA-256 of what was there before, as deterministic JSON, in hexadecimal digits.
        after: SHA-256 of what is there afterwards.
        details: Short facts without personal data.
    """

    action: str
    target: str
    actor: str
    client: str
    address: str | UnsetType = UNSET
    request_id: str | UnsetType = UNSET
    before: str | UnsetType = UNSET
    after: str | UnsetType = UNSET
    details: dict[str, str | int | bool] = {}


class AuditEntry(Struct, frozen=True):
    """An entry of the audit log.

    ``sequence`` counts from 1 without gaps. An act that may fail or take long has two entries: ``started``
    before it, and ``done`` or ``failed``, whose ``of`` is the sequence of the first. ``hash`` covers
    ``previous_hash`` and every other member.
    """

    sequence: int
    at: datetime
    act: AuditAct
    outcome: Outcome
    previous_hash: str
    hash: str
    of: int | UnsetType = UNSET
