"""The JSON shapes of history records."""

from msgspec import UNSET, Struct, UnsetType, structs

from app.contracts.record import HistoryRecord, MergedField
from app.contracts.state import Payload
from app.contracts.wire.states import StateView, state_view
from app.contracts.wire.times import Time, iso


class RecordMetadata(Struct, frozen=True, rename="camel"):
    """The circumstances of a record.

    ``payload_revision``: the change left the payload of the state unchanged, and the record of that revision,
    in the same epoch, has it.
    """

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
    """A history record in an answer (the reference's FlowStateHistory).

    ``entity_id`` is present if the user has many states in the flow, ``merged`` if the change replaced
    values of another one that its caller did not know. ``masked`` are JSON pointers as those of a state:
    to parts of ``payload`` and ``merged`` that the caller may not see. ``erased`` is present, and true, if
    the data entered with the change was erased.
    """

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
    entity_id: str | UnsetType = UNSET
    merged: tuple[MergedField, ...] | UnsetType = UNSET
    masked: tuple[str, ...] | UnsetType = UNSET
    erased: bool | UnsetType = UNSET


class ExportedRecordView(RecordView, frozen=True, rename="camel", kw_only=True):
    """A history record with the state that it led to.

    The state has no payload if ``metadata`` names the revision whose record has it.
    """

    after: StateView | UnsetType = UNSET


NOT_SHOWN = ("commit_id", "digest", "previous_hash", "commitment", "salt", "hash_version", "actor_salt")
"""Members of a record that no view has; every other one is a member of RecordMetadata, RecordView or
ExportedRecordView. ``instance_id`` is shown as ``entity_id``."""


def record_view(record: HistoryRecord) -> RecordView:
    """Return the view of a record."""
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
        entity_id=record.instance_id,
        merged=record.merged,
        masked=record.masked,
        erased=True if record.is_erased else UNSET,
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


def exported_record_view(record: HistoryRecord) -> ExportedRecordView:
    """Return the view of a record in an export: with the state after it."""
    after = UNSET if record.after is UNSET else state_view(record.after)
    return ExportedRecordView(**structs.asdict(record_view(record)), after=after)
