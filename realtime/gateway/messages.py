"""Bodies of Socket.IO events, and their decoding."""

from typing import Annotated, Any, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType, ValidationError, field

from app.contracts.commands import (
    ClaimCommand,
    Label,
    Name,
    Participants,
    ParticipantsCommand,
    Pointers,
    RequestId,
    ResetCommand,
    Role,
    StartCommand,
    Text,
    TransitionCommand,
)
from app.contracts.errors import Fault, InvalidRequestError
from app.contracts.ports.states import ListedStatus
from app.flow.values.struct_errors import faults_of
from app.kit.integers import convert_json

PageLimit = Annotated[int, Meta(ge=1, le=1000)]


class FlowMessage(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """The members of every event about one state.

    ``user_id`` names another user as the owner (for services and participants), ``entity_id`` one of many
    states.
    """

    flow_id: str
    user_id: str | None = None
    entity_id: str | None = None


class SubscribeMessage(FlowMessage, frozen=True, kw_only=True, rename="camel"):
    """The body of ``flow-subscribe``.

    Attributes:
        epoch: With ``since``, the position of the state that the client holds.
        since: The revision of that position.
        from_start: The client knows of no state, and wants the present one from its first revision.
    """

    epoch: Annotated[str, Meta(max_length=64)] | None = None
    since: Annotated[int, Meta(ge=0)] | None = None
    from_start: bool = False


class ListMessage(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """The body of ``flow-list``: a user's states in a flow, or with ``as`` those that wait for the caller.

    ``after`` is the ``next`` of the page before.
    """

    flow_id: str | None = None
    user_id: str | None = None
    role: Role | None = field(name="as", default=None)
    status: ListedStatus | None = None
    after: str | None = None
    limit: PageLimit = 100


class ChangeMessage(FlowMessage, frozen=True, kw_only=True, rename="camel"):
    """The members of every event that changes a state."""

    request_id: RequestId | UnsetType = UNSET
    expected_revision: int | None = None


class StartMessage(ChangeMessage, frozen=True, kw_only=True, rename="camel"):
    """The body of ``flow-start``."""

    step: Name | None = None
    service: Label = ""
    entity_id: Label | UnsetType | None = UNSET  # type: ignore[assignment] # null and absent differ here
    payload: dict[str, Any] | UnsetType = UNSET
    participants: Participants | UnsetType = UNSET

    def command(self) -> StartCommand:
        """Return the command of this message."""
        return StartCommand(
            step=self.step,
            service=self.service,
            entity_id=self.entity_id,
            payload=self.payload,
            participants=self.participants,
        )


class TransitionMessage(ChangeMessage, frozen=True, kw_only=True, rename="camel"):
    """The body of ``flow-transition``."""

    transition: str
    payload: dict[str, Any] | UnsetType = UNSET
    ok: bool = True
    message: Text | UnsetType = UNSET
    remove: Pointers | UnsetType = UNSET

    def command(self) -> TransitionCommand:
        """Return the command of this message."""
        return TransitionCommand(payload=self.payload, ok=self.ok, message=self.message, remove=self.remove)


class ClaimMessage(ChangeMessage, frozen=True, kw_only=True, rename="camel"):
    """The body of ``flow-claim`` and ``flow-release``."""

    role: Role | None = None

    def command(self) -> ClaimCommand:
        """Return the command of this message."""
        return ClaimCommand(role=self.role)


class ParticipantsMessage(ChangeMessage, frozen=True, kw_only=True, rename="camel"):
    """The body of ``flow-participants``."""

    participants: Participants

    def command(self) -> ParticipantsCommand:
        """Return the command of this message."""
        return ParticipantsCommand(participants=self.participants)


class ResetMessage(ChangeMessage, frozen=True, kw_only=True, rename="camel"):
    """The body of ``flow-reset``."""

    step: Name | None = None

    def command(self) -> ResetCommand:
        """Return the command of this message."""
        return ResetCommand(step=self.step)


M = TypeVar("M", bound=FlowMessage | ListMessage)


def decode_message(bodies: tuple[Any, ...], shape: type[M]) -> M:
    """Decode the arguments of an event, which must be one body of this shape.

    Raises:
        InvalidRequestError: It has another shape, or text that is not Unicode.
    """
    body = bodies[0] if len(bodies) == 1 else None
    try:
        message = convert_json(body, shape)
    except (ValidationError, RecursionError, UnicodeEncodeError):
        raise InvalidRequestError(faults_of(body, shape)) from None
    faults = [
        Fault(f"/{name}", "must be Unicode text; it has half of a surrogate pair")
        for name, value in body.items()  # type: ignore[union-attr] # it has the shape
        if isinstance(value, str) and not _is_unicode(value)
    ]
    if faults:
        raise InvalidRequestError(faults)
    return message


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
