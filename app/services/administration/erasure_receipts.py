"""Receipts of erasures: their facts, and the hash of them that the audit entry has."""

from datetime import datetime

from msgspec import to_builtins

from app.contracts.erasures import ErasedChain, ErasureClaims
from app.contracts.results import Erasure
from app.contracts.wire.administration import erasure_claims_view
from app.kit.hash_chain import json_hash


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
