"""Commands of callers, the same for every interface."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from app.contracts.callers import Caller, trusted_caller
from app.contracts.people import Participant
from app.contracts.positions import ExpectedPosition
from app.contracts.state import Payload

Name = Annotated[str, Meta(max_length=64)]

Label = Annotated[str, Meta(max_length=256)]

Text = Annotated[str, Meta(max_length=4000)]

Pointers = Annotated[tuple[Annotated[str, Meta(max_length=1000)], ...], Meta(max_length=100)]
"""JSON pointers (RFC 6901) into a payload."""

RequestId = Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,128}$")]
"""1 to 128 visible ASCII characters."""


EntityId = Annotated[str, Meta(min_length=1, max_length=256)]

Role = Annotated[str, Meta(min_length=1, max_length=128)]

Participants = Annotated[tuple[Participant, ...], Meta(max_length=100)]


class Origin(Struct, frozen=True):
    """The source of a command, recorded with the change.

    ``caller`` is who requests it, ``client`` the kind of interface or program. ``expected`` are positions of
    the state at which the change may be made. ``dry_run``: decide, but change and record nothing.
    ``audited``: the command is part of an act that has its own entries in the audit log.
    """

    caller: Caller
    request_id: str | UnsetType = UNSET
    client: str | UnsetType = UNSET
    expected: ExpectedPosition | tuple[ExpectedPosition, ...] | None = None
    dry_run: bool = False
    audited: bool = False

    @property
    def actor(self) -> str:
        """The name that records of the change have for the caller."""
        return self.caller.user_id


def trusted_origin(user_id: str, client: str | UnsetType = UNSET) -> Origin:
    """Create the origin of a command by code in this process, acting for ``user_id``."""
    return Origin(trusted_caller(user_id), client=client)


class StartCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Begin a flow, at its initial step or the named one.

    ``entity_id``: in a flow with many instances the entity of the state, a new one if absent; in others a
    label. ``participants`` are people with roles on the state.
    """

    step: Name | None = None
    service: Label = ""
    entity_id: Label | UnsetType | None = UNSET
    payload: Payload | UnsetType = UNSET
    participants: Participants | UnsetType = UNSET


class TransitionCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The input of a transition.

    First the members that ``remove`` points to are removed from the state's payload, then ``payload`` is
    merged into it. ``message`` replaces the last message, or clears it when absent. ``ok`` is the outcome as
    the caller sees it.
    """

    payload: Payload | UnsetType = UNSET
    ok: bool = True
    message: Text | UnsetType = UNSET
    remove: Pointers | UnsetType = UNSET


class ParticipantsCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Replace the people with roles on a state."""

    participants: Participants


class ClaimCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Claim the tasks of a role, or release a claim.

    Without ``role``: the only role of the caller on the state that can be claimed.
    """

    role: Role | None = None


class ResetCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Begin again at the initial step or the named one."""

    step: Name | None = None


class PauseCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Pause a state. ``reason`` is in the answers to refused transitions."""

    reason: Annotated[str, Meta(min_length=1, max_length=500)]


class SetCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Replace a whole state (for repairs).

    The reference's minimum is flow, step, service, ok. With ``remove`` the payload is not replaced: members
    are removed from the present one, and ``payload`` is merged into it.
    """

    step: Name
    flow: Name | UnsetType = UNSET
    service: Label = ""
    ok: bool = True
    previous: Name | UnsetType = UNSET
    entity_id: Label | UnsetType | None = UNSET
    payload: Payload | UnsetType = UNSET
    message: Text | UnsetType = UNSET
    remove: Pointers | UnsetType = UNSET


class BatchAction(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """One operation of a batch. ``body`` is what the route of the same operation takes."""

    op: Literal["set", "transition", "reset", "clear", "pause", "resume"]
    transition: Name | None = None
    body: dict[str, Any] = {}


class BatchOperation(BatchAction, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """An operation on one state, conditional and repeatable as it would be alone."""

    user_id: Annotated[str, Meta(min_length=1, max_length=256)]
    flow_id: Name
    entity_id: EntityId | None = None
    request_id: RequestId | UnsetType = UNSET
    expected_revision: int | None = None
    expected_epoch: str | None = None
