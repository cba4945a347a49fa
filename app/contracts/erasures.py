"""Receipts of erasures, which a third party can check against an export of the audit log."""

from datetime import datetime

from msgspec import Struct


class ErasedChain(Struct, frozen=True):
    """The end of the history of an erased state: the receipt of the erasure in its chain."""

    flow: str
    record: str
    hash: str


class ErasureClaims(Struct, frozen=True):
    """The facts of an erasure.

    The audit entry has their hash. It covers the salt, so that nobody can find the user by trying ids.

    Args:
        user_id: The user whose data was erased.
        salt: Makes the pseudonym of the user in the audit entry; it is stored nowhere.
        at: The time at which the erasure was complete.
        actor: The actor of the audit entry.
        records_erased: Records that lost their payloads.
        states_pseudonymised: States of other users that have a pseudonym instead of the user.
        records_pseudonymised: Records of other users that have one.
        destroyed_keys: The ids of the user's data keys that were destroyed, at this erasure and before.
        chains: The ends of the histories of the user's states.
    """

    user_id: str
    salt: str
    at: datetime
    actor: str
    records_erased: int
    states_pseudonymised: int
    records_pseudonymised: int
    destroyed_keys: tuple[str, ...]
    chains: tuple[ErasedChain, ...]


class ErasureReceipt(Struct, frozen=True):
    """The facts of an erasure, and the audit entry that has their hash."""

    claims: ErasureClaims
    audit_sequence: int
    audit_hash: str
