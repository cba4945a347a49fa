"""The JSON shapes of events to integrations: CloudEvents 1.0 in the structured mode."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from app.contracts.state import Payload, Status
from app.contracts.wire.times import Time


class IntegrationEventData(Struct, frozen=True, kw_only=True, rename="camel"):
    """The data of an event: the change, and the state after it.

    An event with ids only has the members as far as ``revision``. ``entity_id`` is the entity that the flow
    runs for: a part of the state's identity, or a label. ``service`` is the one that owns ``step``.
    ``payload`` is the whole payload of the state after the change, or the registered ``fields`` of it.
    ``masked`` are JSON pointers to sensitive parts of it that the registration does not list.
    ``truncated``: the event would exceed the limit of bytes, so that it has ids only.
    """

    flow_id: str
    user_id: str
    entity_id: str | UnsetType = UNSET
    epoch: str
    revision: int
    version: int | UnsetType = UNSET
    kind: str | UnsetType = UNSET
    transition: str | UnsetType = UNSET
    from_step: str | UnsetType = UNSET
    step: str | UnsetType = UNSET
    service: str | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    actor: str | UnsetType = UNSET
    payload: Payload | UnsetType = UNSET
    masked: tuple[str, ...] | UnsetType = UNSET
    message: str | UnsetType = UNSET
    ok: bool | UnsetType = UNSET
    truncated: bool | UnsetType = UNSET


class IntegrationEventView(Struct, frozen=True, kw_only=True):
    """An event to an integration.

    ``replay`` and ``test`` are extensions: the event was requested again, or is a sample.
    """

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: str
    time: Time
    datacontenttype: Literal["application/json"] = "application/json"
    data: IntegrationEventData
    replay: bool | UnsetType = UNSET
    test: bool | UnsetType = UNSET
