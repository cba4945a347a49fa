"""Commands of callers, the same for every door."""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from app.contracts.errors import Fault, InvalidRequestError
from app.contracts.state import Payload, StatePosition

Name = Annotated[str, Meta(max_length=64)]
Label = Annotated[str, Meta(max_length=256)]
Text = Annotated[str, Meta(max_length=4000)]
Pointers = Annotated[tuple[Annotated[str, Meta(max_length=1000)], ...], Meta(max_length=100)]
"""JSON pointers (RFC 6901) into a payload."""
RequestId = Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,128}$")]
"""1 to 128 visible ASCII characters."""


ADMIN = "flow:admin"
SERVICE = "flow:service"


class Caller(Struct, frozen=True):
    """An authenticated party. ``expires_at`` is the last moment of its token, in seconds since 1970."""

    user_id: str
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    expires_at: float = 0.0

    def has_a_role(self, wanted: Collection[str] | None) -> bool:
        """True if the caller has one of the ``wanted`` roles. None: no role is asked for. Of an
        administrator none is."""
        return wanted is None or ADMIN in self.scopes or not self.roles.isdisjoint(wanted)


def trusted_caller(user_id: str) -> Caller:
    """A Python program or the service itself, in the place of a user: of it no roles are asked."""
    return Caller(user_id, scopes=frozenset({ADMIN}))


class ExpectedPosition(Struct, frozen=True):
    """A position at which a change may be made. No epoch: in any life of the state; no revision: at any."""

    revision: int | None
    epoch: str | None = None

    def is_of(self, position: StatePosition) -> bool:
        """Return whether a state at ``position`` is at this one."""
        return self.revision in (None, position.revision) and self.epoch in (None, position.epoch)


class HeldPosition(Struct, frozen=True):
    """A position that a follower holds: an epoch of the state, and the revision in it. No epoch: nothing.

    ``from_start``: the follower knows that there was no state, or that the one it holds has ended. It gets
    a later epoch from its first revision.
    """

    epoch: str | None = None
    revision: int = 0
    from_start: bool = False


NOTHING_HELD = HeldPosition()


def held_position(epoch: str | None, since: int | None, from_start: bool = False) -> HeldPosition:
    """As a follower gives it. Raises InvalidRequestError when one of both is missing."""
    if (epoch is None) != (since is None):
        missing = "since" if since is None else "epoch"
        raise InvalidRequestError([Fault(f"/{missing}", "epoch and since go together")])
    return HeldPosition(epoch, since or 0, from_start)


class Origin(Struct, frozen=True):
    """Where a command comes from. ``actor`` is the caller's user id, ``client`` the kind of door and
    program: recorded with the change. ``dry_run``: decide, and change and record nothing. ``caller`` is who
    asks, of whom roles are asked; None: a Python program or the service itself, of which none are."""

    actor: str
    request_id: str | UnsetType = UNSET
    client: str | UnsetType = UNSET
    expected: ExpectedPosition | tuple[ExpectedPosition, ...] | None = None
    dry_run: bool = False
    caller: Caller | None = None

    @property
    def effective_caller(self) -> Caller:
        """The caller."""
        return self.caller or trusted_caller(self.actor)


class StartCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Begin a flow, at its initial step or the named one."""

    step: Name | None = None
    service: Label = ""
    entity_id: Label | UnsetType | None = UNSET
    payload: Payload | UnsetType = UNSET


class TransitionCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The input of a transition. First the members that ``remove`` points to are taken out of the state's
    payload, then ``payload`` is merged into it; ``message`` replaces the last one, or clears it when absent;
    ``ok`` is the outcome as the caller sees it."""

    payload: Payload | UnsetType = UNSET
    ok: bool = True
    message: Text | UnsetType = UNSET
    remove: Pointers | UnsetType = UNSET


class ResetCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Begin again at the initial step or the named one."""

    step: Name | None = None


class PauseCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Hold a state. ``reason`` is told to everybody whose transition is refused."""

    reason: Annotated[str, Meta(min_length=1, max_length=500)]


class SetCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Replace a state wholesale (repair). The reference's minimum is flow, step, service, ok. With ``remove``
    the payload is not replaced: members are taken out of the present one, and ``payload`` is merged into
    it."""

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
    request_id: RequestId | UnsetType = UNSET
    expected_revision: int | None = None
    expected_epoch: str | None = None
