"""The JSON shapes of answers and events, camelCase, times as text."""

from datetime import UTC, datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, convert, json, structs

from app.contracts.definition import VersionInfo
from app.contracts.errors import FlowError
from app.contracts.record import HistoryRecord
from app.contracts.results import BatchOutcome, CaughtUp, Erasure, PersonalData, Recovered
from app.contracts.state import AvailableTransition, FlowState, Payload, Status

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


def iso(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class StateView(Struct, frozen=True, rename="camel"):
    """A state in an answer. ``transitions`` are those that the caller may run now. Who has one of
    ``undo_roles`` may go back to ``previous``; absent: everybody who may act on the state, empty:
    administrators only."""

    flow: str
    step: str
    service: str
    ok: bool
    user_id: str
    version: int
    epoch: str
    revision: int
    status: Status
    created_at: Time
    updated_at: Time
    transitions: tuple[AvailableTransition, ...]
    previous: str | UnsetType = UNSET
    undo_roles: tuple[str, ...] | UnsetType = UNSET
    entity_id: str | UnsetType | None = UNSET
    payload: Payload | UnsetType = UNSET
    message: str | UnsetType = UNSET
    expires_at: Time | UnsetType = UNSET
    pause_reason: str | UnsetType = UNSET
    timeout_at: Time | UnsetType = UNSET


class StateUpdatedEvent(StateView, frozen=True, rename="camel", kw_only=True):
    """The body of ``flow-state-updated``: the state and what led to it."""

    kind: str
    transition: str
    from_step: str
    actor: str
    at: Time


class FlowUpdatedEvent(Struct, frozen=True, rename="camel", kw_only=True):
    """The body of ``flow-updated``: a user's state in a watched flow, and what led to it."""

    user_id: str
    flow_id: str
    state: StateView
    kind: str
    transition: str
    from_step: str
    actor: str
    at: Time


class CaughtUpView(Struct, frozen=True, rename="camel"):
    """An answer to catching up. ``complete``: ``events`` (bodies of ``flow-state-updated``) are all
    changes after its position, oldest first; otherwise it starts anew with ``state``."""

    state: StateView | None
    events: tuple[StateUpdatedEvent, ...]
    complete: bool


class RecordMetadata(Struct, frozen=True, rename="camel"):
    """The circumstances of a record. ``payload_revision``: the change left the payload of the state as it
    was, and the record of that revision, in the same epoch, has it."""

    kind: str
    service: str
    actor: str
    version: int
    epoch: str
    revision: int
    request_id: str | UnsetType = UNSET
    client: str | UnsetType = UNSET
    duration_ms: float | UnsetType = UNSET
    payload_revision: int | UnsetType = UNSET


class RecordView(Struct, frozen=True, rename="camel"):
    """A history record in an answer (the reference's FlowStateHistory)."""

    id: str
    user_id: str
    flow_id: str
    from_step: str
    to_step: str
    transition: str
    timestamp: Time
    success: bool
    metadata: RecordMetadata
    payload: Payload | UnsetType = UNSET
    error: str | UnsetType = UNSET
    hash: str | UnsetType = UNSET


class RecoveryView(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The result of a recovery: ``action`` is ``kept``, ``rebuilt`` (from ``record``) or ``restarted``."""

    action: str
    state: StateView | None
    reason: str | None = None
    record: str | None = None


class ErrorView(Struct, frozen=True):
    """An error inside an answer."""

    code: str
    message: str
    retryable: bool
    details: dict[str, Any]


class BatchResult(Struct, frozen=True, rename="camel"):
    """The result of one operation of a batch: the state (null when there is none any more), or an
    error. ``payload_omitted``, if true: the state has a payload, which did not fit the answer."""

    user_id: str
    flow_id: str
    ok: bool
    state: StateView | UnsetType | None = UNSET
    error: ErrorView | UnsetType = UNSET
    payload_omitted: bool | UnsetType = UNSET


class ExportedRecordView(RecordView, frozen=True, rename="camel", kw_only=True):
    """A history record with the state that it led to: without its payload if ``metadata`` names the revision
    whose record has it."""

    after: StateView | UnsetType = UNSET


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


class DefinitionSummary(Struct, frozen=True, rename="camel"):
    """One version of a definition without its steps."""

    flow: str
    version: int
    published_at: Time
    published_by: str
    source: str
    retired: bool


def _state_members(state: FlowState) -> dict[str, Any]:
    return {
        "flow": state.flow,
        "step": state.step,
        "service": state.service,
        "ok": state.ok,
        "user_id": state.user_id,
        "version": state.version,
        "epoch": state.epoch,
        "revision": state.revision,
        "status": state.status,
        "created_at": iso(state.created_at),
        "updated_at": iso(state.updated_at),
        "transitions": state.transitions,
        "previous": state.previous,
        "undo_roles": state.undo_roles,
        "entity_id": state.entity_id,
        "payload": state.payload,
        "message": state.message,
        "pause_reason": state.pause_reason,
        "expires_at": UNSET if state.expires_at is UNSET else iso(state.expires_at),
        "timeout_at": UNSET if state.timeout_at is UNSET else iso(state.timeout_at),
    }


def state_view(state: FlowState) -> StateView:
    """A state as it is answered."""
    return StateView(**_state_members(state))


def state_of_view(view: StateView) -> FlowState:
    """The state that a view shows. How long a paused one still waits is not in it."""
    members = {name: getattr(view, name, UNSET) for name in FlowState.__struct_fields__}
    return convert({name: value for name, value in members.items() if value is not UNSET}, FlowState)


def state_updated_event(state: FlowState, record: HistoryRecord) -> StateUpdatedEvent:
    """The event that tells clients of a committed change."""
    return StateUpdatedEvent(
        **_state_members(state),
        kind=record.kind,
        transition=record.transition,
        from_step=record.from_step,
        actor=record.actor,
        at=iso(record.timestamp),
    )


def state_of_event(update: StateUpdatedEvent) -> StateView:
    """The state of an event, without what led to it."""
    return StateView(**{name: getattr(update, name) for name in StateView.__struct_fields__})


def flow_updated_event(body: Raw) -> FlowUpdatedEvent:
    """The same for those who watch the flow; ``body`` is that of ``flow-state-updated``."""
    update = json.decode(body, type=StateUpdatedEvent)
    return FlowUpdatedEvent(
        user_id=update.user_id,
        flow_id=update.flow,
        state=state_of_event(update),
        kind=update.kind,
        transition=update.transition,
        from_step=update.from_step,
        actor=update.actor,
        at=update.at,
    )


def caught_up_view(found: CaughtUp) -> dict[str, Any]:
    """As CaughtUpView, with the events as they were encoded."""
    return {
        "state": None if found.state is None else state_view(found.state),
        "events": [event.body for event in found.events],
        "complete": found.complete,
    }


def record_view(record: HistoryRecord) -> RecordView:
    """A history record as it is answered."""
    return RecordView(
        id=record.id,
        user_id=record.user_id,
        flow_id=record.flow_id,
        from_step=record.from_step,
        to_step=record.to_step,
        transition=record.transition,
        timestamp=iso(record.timestamp),
        success=record.success,
        payload=record.payload,
        error=record.error,
        hash=record.hash,
        metadata=RecordMetadata(
            kind=record.kind,
            service=record.service,
            actor=record.actor,
            version=record.version,
            epoch=record.epoch,
            revision=record.revision,
            request_id=record.request_id,
            client=record.client,
            duration_ms=record.duration_ms,
            payload_revision=record.payload_revision,
        ),
    )


def definition_summary(version: VersionInfo) -> DefinitionSummary:
    """A definition without its steps."""
    return DefinitionSummary(
        flow=version.flow_id,
        version=version.version,
        published_at=iso(version.published_at),
        published_by=version.published_by,
        source=version.source,
        retired=version.retired,
    )


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


def exported_record_view(record: HistoryRecord) -> ExportedRecordView:
    """A record as an export has it: with the state after it."""
    after = UNSET if record.after is UNSET else state_view(record.after)
    return ExportedRecordView(**structs.asdict(record_view(record)), after=after)


def personal_data_view(found: PersonalData) -> PersonalDataView:
    """Everything kept of a user, as it is answered."""
    states = [state_view(state) for state in found.states]
    history = [exported_record_view(record) for record in found.history]
    return PersonalDataView(found.user_id, iso(found.exported_at), states, history)


def erasure_view(done: Erasure) -> ErasureView:
    """The receipt of an erasure, as it is answered."""
    return ErasureView(done.user_id, done.erased, [record_view(record) for record in done.receipts])


encode = json.encode


def error_view(error: FlowError) -> ErrorView:
    """An error as a Socket.IO client or the caller of a batch gets it."""
    return ErrorView(error.code, error.message, error.retryable, error.details)


def problem_view(error: FlowError, instance: str) -> dict[str, Any]:
    """Return an error as a problem of RFC 9457. ``instance`` is the path of the request."""
    return {
        "type": f"urn:server-flow:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.message,
        "instance": instance,
        "code": error.code,
        "retryable": error.retryable,
        "details": error.details,
    }
