"""The JSON shapes of batches, recoveries, exports and erasures."""

from msgspec import UNSET, Struct, UnsetType, structs

from app.contracts.erasures import ErasureClaims, ErasureReceipt
from app.contracts.results import BatchOutcome, Erasure, PersonalData, Recovered
from app.contracts.wire.errors import ErrorView, error_view
from app.contracts.wire.records import ExportedRecordView, RecordView, exported_record_view, record_view
from app.contracts.wire.states import StateView, state_view
from app.contracts.wire.times import Time, iso


class RecoveryView(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The result of a recovery: ``action`` is ``kept``, ``rebuilt`` (from ``record``) or ``restarted``."""

    action: str
    state: StateView | None
    reason: str | None = None
    record: str | None = None


class BatchResult(Struct, frozen=True, rename="camel"):
    """The result of one operation of a batch: the state (null if it has ended), or an error.

    ``payload_omitted``, if true: the state has a payload that did not fit into the answer.
    """

    user_id: str
    flow_id: str
    ok: bool
    entity_id: str | UnsetType = UNSET
    state: StateView | UnsetType | None = UNSET
    error: ErrorView | UnsetType = UNSET
    payload_omitted: bool | UnsetType = UNSET


class ErasedView(Struct, frozen=True):
    """When the data of a user was erased the last time, and by whom."""

    at: Time
    by: str


class PersonalDataView(Struct, frozen=True, rename="camel", kw_only=True):
    """All stored data of a user. ``erased`` is absent if the data was never erased.

    ``history`` is the last member: it is sent while it is read.
    """

    user_id: str
    exported_at: Time
    erased: ErasedView | UnsetType = UNSET
    states: list[StateView]
    history: list[ExportedRecordView]


class ErasedChainView(Struct, frozen=True, rename="camel"):
    """The end of the history of an erased state: the id of its last record, and the hash of that."""

    flow: str
    record: str
    hash: str


class ErasureClaimsView(Struct, frozen=True, rename="camel"):
    """The facts of an erasure.

    ``after`` of the audit entry is their SHA-256, as JSON without spaces, with names in order.
    """

    user_id: str
    salt: str
    at: Time
    actor: str
    records_erased: int
    states_pseudonymised: int
    records_pseudonymised: int
    destroyed_keys: tuple[str, ...]
    chains: tuple[ErasedChainView, ...]


class ErasureReceiptView(Struct, frozen=True, rename="camel"):
    """A proof of an erasure, which an export of the audit log confirms."""

    claims: ErasureClaimsView
    audit_sequence: int
    audit_hash: str


class ErasureView(Struct, frozen=True, rename="camel"):
    """The receipt of an erasure.

    ``receipts`` are the records of the erasure, one in the history of each flow; ``records_erased`` counts
    the records that lost their payload. ``states_pseudonymised`` and ``records_pseudonymised`` count those of
    other users that named the user, and have a pseudonym instead. ``destroyed_keys`` are the ids of the data
    keys of the user that were ever destroyed; without them, no copy of the data that was sealed with them
    can be read. ``erased_at`` and ``erased_by`` are the time and the actor.
    """

    user_id: str
    records_erased: int
    receipts: list[RecordView]
    states_pseudonymised: int
    records_pseudonymised: int
    destroyed_keys: tuple[str, ...]
    erased_at: Time
    erased_by: str
    receipt: ErasureReceiptView | None = None


def recovery_view(done: Recovered) -> RecoveryView:
    """Return the view of a recovery."""
    state = None if done.state is None else state_view(done.state)
    return RecoveryView(done.action, state, done.reason, done.record)


def batch_result(outcome: BatchOutcome) -> BatchResult:
    """Return the view of the result of one operation."""
    named = BatchResult(
        outcome.user_id, outcome.flow_id, ok=outcome.error is None, entity_id=outcome.entity_id
    )
    if outcome.error is not None:
        return structs.replace(named, error=error_view(outcome.error))
    state = None if outcome.state is None else state_view(outcome.state)
    omitted = outcome.payload_omitted or UNSET
    return structs.replace(named, state=state, payload_omitted=omitted)


def personal_data_view(found: PersonalData) -> PersonalDataView:
    """Return the view of a user's stored data."""
    states = [state_view(state) for state in found.states]
    history = [exported_record_view(record) for record in found.history]
    erased = UNSET if found.erased is None else ErasedView(iso(found.erased.at), found.erased.by)
    return PersonalDataView(
        user_id=found.user_id,
        exported_at=iso(found.exported_at),
        erased=erased,
        states=states,
        history=history,
    )


def erasure_view(done: Erasure) -> ErasureView:
    """Return the view of an erasure."""
    return ErasureView(
        done.user_id,
        done.erased,
        [record_view(record) for record in done.receipts],
        done.pseudonymised_states,
        done.pseudonymised_records,
        done.destroyed_keys,
        iso(done.at),
        done.by,
        None if done.receipt is None else erasure_receipt_view(done.receipt),
    )


def erasure_claims_view(claims: ErasureClaims) -> ErasureClaimsView:
    """Return the view of the facts of an erasure."""
    chains = tuple(ErasedChainView(each.flow, each.record, each.hash) for each in claims.chains)
    return ErasureClaimsView(**{**structs.asdict(claims), "at": iso(claims.at), "chains": chains})


def erasure_receipt_view(receipt: ErasureReceipt) -> ErasureReceiptView:
    """Return the view of a receipt."""
    return ErasureReceiptView(erasure_claims_view(receipt.claims), receipt.audit_sequence, receipt.audit_hash)
