"""The JSON shapes of batches, recoveries, exports and erasures."""

from msgspec import UNSET, Struct, UnsetType

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
    """The result of one operation of a batch: the state (null when there is none any more), or an
    error. ``payload_omitted``, if true: the state has a payload, which did not fit the answer."""

    user_id: str
    flow_id: str
    ok: bool
    state: StateView | UnsetType | None = UNSET
    error: ErrorView | UnsetType = UNSET
    payload_omitted: bool | UnsetType = UNSET


class PersonalDataView(Struct, frozen=True, rename="camel"):
    """Everything kept of a user."""

    user_id: str
    exported_at: Time
    states: list[StateView]
    history: list[ExportedRecordView]


class ErasureView(Struct, frozen=True, rename="camel"):
    """The receipt of an erasure: the records that stand for it, one in the history of each flow, and
    how many records lost their payload."""

    user_id: str
    records_erased: int
    receipts: list[RecordView]


def recovery_view(done: Recovered) -> RecoveryView:
    """Encode the result of a recovery."""
    state = None if done.state is None else state_view(done.state)
    return RecoveryView(done.action, state, done.reason, done.record)


def batch_result(outcome: BatchOutcome) -> BatchResult:
    """Encode the result of one operation."""
    if outcome.error is not None:
        view = error_view(outcome.error)
        return BatchResult(outcome.user_id, outcome.flow_id, ok=False, error=view)
    state = None if outcome.state is None else state_view(outcome.state)
    omitted = outcome.payload_omitted or UNSET
    return BatchResult(outcome.user_id, outcome.flow_id, ok=True, state=state, payload_omitted=omitted)


def personal_data_view(found: PersonalData) -> PersonalDataView:
    """Everything kept of a user, as it is answered."""
    states = [state_view(state) for state in found.states]
    history = [exported_record_view(record) for record in found.history]
    return PersonalDataView(found.user_id, iso(found.exported_at), states, history)


def erasure_view(done: Erasure) -> ErasureView:
    """The receipt of an erasure, as it is answered."""
    return ErasureView(done.user_id, done.erased, [record_view(record) for record in done.receipts])
