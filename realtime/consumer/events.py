"""Events, as the entries of a stream have them."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from realtime.redis.entry_seals import DamagedEntryError, EntryOpener

StateKey = tuple[str, str, str | None]
"""The flow, the user and the entity of a state."""


class StreamEvent(Struct, frozen=True, kw_only=True):
    """An event for a service.

    Attributes:
        id: The id of the event; the same whenever it is delivered again.
        type: Its type, such as ``flow.step.entered``.
        data: The members of the event that describe the change.
        time: The time of the change, as text.
        replay: It was delivered before, and an operator has it delivered again.
        deliveries: The number of its deliveries to consumers, with this one.
        entry: The identifier of the entry in the stream.
    """

    id: str
    type: str
    data: dict[str, Any]
    time: str = ""
    replay: bool = False
    deliveries: int = 1
    entry: str = ""

    @property
    def redelivered(self) -> bool:
        """The event was delivered to a consumer before, which did not acknowledge it."""
        return self.deliveries > 1

    @property
    def state(self) -> StateKey:
        """The state that changed."""
        entity_id = self.data.get("entityId")
        return (
            str(self.data["flowId"]),
            str(self.data["userId"]),
            None if entity_id is None else str(entity_id),
        )


class _CloudEvent(Struct):
    """The members of a CloudEvent that are read."""

    id: str
    type: str
    data: dict[str, Any]
    time: str = ""
    replay: bool = False


class MalformedEntryError(ValueError):
    """An entry of a stream is not an event."""


def event_of(cloud_event: bytes, *, deliveries: int = 1, entry: str = "") -> StreamEvent:
    """Decode an event.

    Raises:
        MalformedEntryError: It is not a CloudEvent about a state.
    """
    try:
        event = msgspec.json.decode(cloud_event, type=_CloudEvent)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedEntryError(str(error)) from None
    flow_id, user_id, entity_id = (event.data.get(name) for name in ("flowId", "userId", "entityId"))
    if not (isinstance(flow_id, str) and isinstance(user_id, str) and isinstance(entity_id, str | None)):
        raise MalformedEntryError("the event names no state")
    return StreamEvent(
        id=event.id,
        type=event.type,
        data=event.data,
        time=event.time,
        replay=event.replay,
        deliveries=deliveries,
        entry=entry,
    )


def event_of_entry(
    entry: str, fields: Mapping[bytes, bytes], deliveries: int, opener: EntryOpener
) -> StreamEvent:
    """Decode an entry of a stream, sealed or in the clear.

    Raises:
        MalformedEntryError: It is not an event, or was changed after it was sealed.
        MissingSecretError: It is sealed with a secret that the opener does not have.
    """
    if b"event" not in fields:
        raise MalformedEntryError("the entry has no event")
    text = fields[b"event"]
    if b"sealed" in fields:
        seal_format, secret_id, event_id, event_type = (
            fields.get(name, b"").decode(errors="replace") for name in (b"sealed", b"secret", b"id", b"type")
        )
        try:
            text = opener.open(
                text,
                seal_format=seal_format,
                secret_id=secret_id,
                event_id=event_id,
                event_type=event_type,
                entry=entry,
            )
        except DamagedEntryError as error:
            raise MalformedEntryError(str(error)) from None
    return event_of(text, deliveries=deliveries, entry=entry)
