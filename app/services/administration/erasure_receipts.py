"""Receipts of erasures: their facts, and the hash of them that the audit entry has."""

from datetime import datetime

from msgspec import to_builtins

from app.contracts.audit import AuditEntry
from app.contracts.erasures import ErasedChain, ErasureClaims
from app.contracts.results import Erasure
from app.contracts.wire.administration import ErasureReceiptView, erasure_claims_view
from app.kit.hash_chain import json_hash
from app.services.audit.pseudonyms import erased_user

ERASURE = "user.erase"
"""The action of an erasure in the audit log."""


def erasure_claims(done: Erasure, salt: str, actor: str, at: datetime) -> ErasureClaims:
    """Return the facts of an erasure."""
    return ErasureClaims(
        user_id=done.user_id,
        salt=salt,
        at=at,
        actor=actor,
        records_erased=done.erased,
        states_pseudonymised=done.pseudonymised_states,
        records_pseudonymised=done.pseudonymised_records,
        destroyed_keys=done.destroyed_keys,
        chains=tuple(ErasedChain(record.flow_id, record.id, record.hash or "") for record in done.receipts),
    )


def claims_hash(claims: ErasureClaims) -> str:
    """Return the hash of the facts: the SHA-256 of their JSON without spaces, with names in order."""
    return json_hash(to_builtins(erasure_claims_view(claims)))


def receipt_fault(receipt: ErasureReceiptView, entry: AuditEntry | None) -> str | None:
    """Return why the audit log does not confirm a receipt; None if it does.

    Args:
        receipt: The receipt.
        entry: The entry with its sequence, of a log whose chain was verified.
    """
    claims = receipt.claims
    if entry is None or entry.hash != receipt.audit_hash:
        return "the log has no entry with its sequence and hash"
    if (entry.act.action, entry.outcome) != (ERASURE, "done"):
        return "its entry is not that of an erasure"
    if entry.act.target != erased_user(claims.salt, claims.user_id):
        return "its entry is of another user"
    if entry.act.after != json_hash(to_builtins(claims)):
        return "its facts are not those of the entry"
    return None
