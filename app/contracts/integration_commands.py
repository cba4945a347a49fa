"""The commands about registered services, as bodies of requests."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from app.contracts.integration import EventType

MAX_MEMBERS = 100
"""Members of each list of a registration."""
MIN_KEY_SECONDS = 60
MAX_KEY_SECONDS = 10 * 366 * 24 * 3600
MAX_SECRET_SECONDS = 30 * 24 * 3600

FlowName = Annotated[str, Meta(min_length=1, max_length=256)]
StepName = Annotated[str, Meta(min_length=1, max_length=512)]
Pointer = Annotated[str, Meta(max_length=1000)]
Reason = Annotated[str, Meta(max_length=500)]


class RegistrationCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The members of a registration that are set; ``null`` sets the default, absent ones do not change.

    Attributes:
        url: The address of the webhook.
        events: The types of events that the service receives, by default all.
        flows: The flows whose events it receives, by default those with a step of the service.
        steps: Steps, as ``step`` or ``flow/step``: only changes from or to one of them are events.
        stream: Append its events to a Redis stream.
        rate: The largest number of webhook requests in a second, by default without a limit.
        concurrency: The largest number of webhook requests at a time.
        thin: Events have ids only.
        fields: JSON pointers of the parts of payloads that events have, by default the whole payloads.
    """

    url: Annotated[str, Meta(min_length=1, max_length=2048)] | UnsetType | None = UNSET
    events: Annotated[tuple[EventType, ...], Meta(max_length=MAX_MEMBERS)] | UnsetType | None = UNSET
    flows: Annotated[tuple[FlowName, ...], Meta(max_length=MAX_MEMBERS)] | UnsetType | None = UNSET
    steps: Annotated[tuple[StepName, ...], Meta(max_length=MAX_MEMBERS)] | UnsetType | None = UNSET
    stream: bool | UnsetType | None = UNSET
    rate: Annotated[int, Meta(ge=1, le=10_000)] | UnsetType | None = UNSET
    concurrency: Annotated[int, Meta(ge=1, le=100)] | UnsetType | None = UNSET
    thin: bool | UnsetType | None = UNSET
    fields: Annotated[tuple[Pointer, ...], Meta(max_length=MAX_MEMBERS)] | UnsetType | None = UNSET


class RotateCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """``expiresIn``: the seconds for which the older secrets still sign, by default a day."""

    expires_in: Annotated[int, Meta(ge=0, le=MAX_SECRET_SECONDS)] = 24 * 3600


class EnableCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The choice about the events that waited while the service was disabled or away.

    ``all`` delivers them, ``since`` only those from the time ``since`` on, ``newest`` only the last event of
    each state, ``none`` none of them.
    """

    backlog: Literal["all", "since", "newest", "none"] = "all"
    since: Annotated[datetime, Meta(tz=True)] | UnsetType = UNSET


class DisableCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The reason, for people."""

    reason: Reason | UnsetType = UNSET


class HeartbeatCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The report of a service about itself."""

    status: Literal["ok", "degraded", "down"] = "ok"
    message: Reason | UnsetType = UNSET


class SampleCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The type of the sample event."""

    type: EventType = "flow.step.entered"


class ApiKeyCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A new API key. ``expiresIn``: the seconds of its validity, by default without an end."""

    name: Annotated[str, Meta(max_length=200)] = ""
    expires_in: Annotated[int, Meta(ge=MIN_KEY_SECONDS, le=MAX_KEY_SECONDS)] | None = None
