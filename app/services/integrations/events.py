"""The events that integrations receive, as CloudEvents 1.0 in JSON."""

from datetime import datetime
from hashlib import blake2b
from urllib.parse import quote
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType, structs

from app.contracts.callers import service_caller
from app.contracts.deliveries import FailureReason
from app.contracts.flow import Flow
from app.contracts.integration import Integration
from app.contracts.ports.secrets import SecretStore
from app.contracts.ports.transports import MAX_EVENT_BYTES
from app.contracts.record import HistoryRecord, named_payload, state_after
from app.contracts.state import FlowState, Payload
from app.contracts.wire.encoding import encode
from app.contracts.wire.integration_events import IntegrationEventData, IntegrationEventView
from app.contracts.wire.times import iso
from app.flow.people.field_access import EVERYTHING, mask_for, masked_state
from app.flow.step_services import owner_of
from app.flow.values.projection import project
from app.kit.ids import new_id

SECRET_NAME = "deliveries"  # noqa: S105 - the name of the secret from which the ids of events follow
SAMPLE_FLOW = "sample-flow"
SAMPLE_STEP = "sample-step"
SAMPLE_USER = "sample-user"
_SAMPLE_EPOCH = "00000000-0000-7000-8000-000000000000"
_MILLISECOND_BITS = (1 << 48) - 1
_VERSION = 7
_VARIANT = 0b10


class IntegrationEvent(Struct, frozen=True):
    """An event as it is sent: ``body`` is a JSON object."""

    id: str
    type: str
    body: bytes


class UndeliverableEventError(Exception):
    """No event can be made of a record. ``detail`` has no data of users."""

    def __init__(self, reason: FailureReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class IntegrationEvents:
    """Makes events of records.

    The same record makes the same event for the same registration, on every worker and at every attempt.
    Its id follows from a secret that the workers share, so that it needs no place to be stored.
    """

    def __init__(self, secrets: SecretStore, *, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._secrets = secrets
        self._max_bytes = max_bytes
        self._key = b""

    async def prepare(self) -> None:
        """Read the secret, once; events can be made afterwards. Raises StoreUnavailableError."""
        if not self._key:
            self._key = await self._secrets.secret(SECRET_NAME)

    def event_id(self, alias: str, record: HistoryRecord) -> str:
        """Return the id of the event of a record for an integration.

        It is ``evt_`` and a UUID of version 7 with the time of the change. Two commits that competed for one
        revision have different ids.
        """
        if not self._key:
            raise RuntimeError("the secret of event ids was not read")
        named = encode([alias, record.id, record.commit_id])
        digest = blake2b(named, key=self._key, digest_size=10, person=b"event id").digest()
        return f"evt_{_uuid7(record.timestamp, int.from_bytes(digest))}"

    def event(
        self,
        integration: Integration,
        record: HistoryRecord,
        event_type: str,
        *,
        flow: Flow | None = None,
        replay: bool = False,
    ) -> IntegrationEvent:
        """Return the event of a change for an integration.

        Args:
            integration: The registration, whose ``thin`` and ``fields`` choose the data.
            record: The record of the change, with the payload that it may name.
            event_type: The type, as ``matching.concerns`` returns it.
            flow: The version of the flow that the state runs on, which has the owner of the step; None if it
                cannot be read.
            replay: It is sent again because somebody requested that.

        Raises:
            UndeliverableEventError: The event is too large, or a payload that the record names is missing.
        """
        if named_payload(record) is not None and not integration.thin:
            raise UndeliverableEventError("internal", "the record with the payload of the state is missing")
        state = state_after(record)
        view = IntegrationEventView(
            id=self.event_id(integration.alias, record),
            source=f"/flows/{quote(record.flow_id, safe='')}",
            type=event_type,
            time=iso(record.timestamp),
            data=_ids(state),
            replay=True if replay else UNSET,
        )
        if integration.thin:
            return self._encoded(view)
        return self._encoded(structs.replace(view, data=_data(integration, record, state, flow)))

    def sample(self, integration: Integration, event_type: str, now: datetime) -> IntegrationEvent:
        """Return an event of a change that never was, to test a receiver; it has ``test``.

        Its ids and names are those of no state; its shape is that of the registration.
        """
        view = IntegrationEventView(
            id=f"evt_{new_id()}",
            source=f"/flows/{SAMPLE_FLOW}",
            type=event_type,
            time=iso(now),
            data=IntegrationEventData(
                flow_id=SAMPLE_FLOW, user_id=SAMPLE_USER, epoch=_SAMPLE_EPOCH, revision=0
            ),
            test=True,
        )
        if integration.thin:
            return self._encoded(view)
        full = structs.replace(
            view.data,
            version=1,
            kind="started",
            transition="started",
            from_step="",
            step=SAMPLE_STEP,
            service=integration.alias,
            status="active",
            actor=SAMPLE_USER,
            payload=_payload(integration, {"sample": True}),
            ok=True,
        )
        return self._encoded(structs.replace(view, data=full))

    def _encoded(self, view: IntegrationEventView) -> IntegrationEvent:
        """Encode an event; one that is too large is reduced to its ids."""
        body = encode(view)
        if len(body) > self._max_bytes:
            body = encode(structs.replace(view, data=_truncated(view.data)))
        if len(body) > self._max_bytes:
            raise UndeliverableEventError("too_large", f"the event has more than {self._max_bytes} bytes")
        return IntegrationEvent(view.id, view.type, body)


def _uuid7(at: datetime, noise: int) -> UUID:
    """Return a UUID of version 7 with a time and 74 bits of ``noise``."""
    milliseconds = round(at.timestamp() * 1000) & _MILLISECOND_BITS
    high = milliseconds << 16 | _VERSION << 12 | noise >> 62 & 0xFFF
    low = _VARIANT << 62 | noise & (1 << 62) - 1
    return UUID(int=high << 64 | low)


def _ids(state: FlowState) -> IntegrationEventData:
    return IntegrationEventData(
        flow_id=state.flow,
        user_id=state.user_id,
        entity_id=state.entity or UNSET,
        epoch=state.epoch,
        revision=state.revision,
    )


def _data(
    integration: Integration, record: HistoryRecord, state: FlowState, flow: Flow | None
) -> IntegrationEventData:
    step = None if flow is None else flow.steps.get(state.step)
    seen = _seen_state(integration, state, flow)
    return structs.replace(
        _ids(state),
        version=record.version,
        kind=record.kind,
        transition=record.transition,
        from_step=record.from_step,
        step=state.step,
        service=UNSET if flow is None or step is None else owner_of(flow, step, state.service),
        status=state.status,
        actor=record.actor,
        payload=seen.payload,
        masked=seen.masked,
        message=state.message,
        ok=state.ok,
    )


def _seen_state(integration: Integration, state: FlowState, flow: Flow | None) -> FlowState:
    """Return a state with the part of its payload that an integration receives.

    Without the definition nobody knows which fields are sensitive.
    """
    seen = structs.replace(state, payload=_payload(integration, state.payload))
    if flow is None:
        return masked_state(seen, EVERYTHING)
    caller = service_caller(integration.alias)
    return masked_state(seen, mask_for(flow, state, caller, "watch", integration.fields or ()))


def _payload(integration: Integration, payload: Payload | UnsetType) -> Payload | UnsetType:
    if payload is UNSET or integration.fields is None:
        return payload
    return project(payload, integration.fields)


def _truncated(data: IntegrationEventData) -> IntegrationEventData:
    return IntegrationEventData(
        flow_id=data.flow_id,
        user_id=data.user_id,
        entity_id=data.entity_id,
        epoch=data.epoch,
        revision=data.revision,
        truncated=True,
    )
