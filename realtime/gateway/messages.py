"""The bodies of Socket.IO events."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from app.contracts.commands import (
    Label,
    Name,
    Pointers,
    RequestId,
    ResetCommand,
    StartCommand,
    Text,
    TransitionCommand,
)


class FlowMessage(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """The members of every event about one state. ``user_id`` names another user (services only)."""

    flow_id: str
    user_id: str | None = None


class SubscribeMessage(FlowMessage, frozen=True, kw_only=True, rename="camel"):
    """``flow-subscribe``: with the position of what the client holds, if it holds any. With ``from_start``
    a client that knows of no state gets the present one from its first revision."""

    epoch: Annotated[str, Meta(max_length=64)] | None = None
    since: Annotated[int, Meta(ge=0)] | None = None
    from_start: bool = False


class ChangeMessage(FlowMessage, frozen=True, kw_only=True, rename="camel"):
    """The members of every event that changes a state."""

    request_id: RequestId | UnsetType = UNSET
    expected_revision: int | None = None


class StartMessage(ChangeMessage, frozen=True, kw_only=True, rename="camel"):
    """``flow-start``."""

    step: Name | None = None
    service: Label = ""
    entity_id: Label | UnsetType | None = UNSET
    payload: dict[str, Any] | UnsetType = UNSET

    def command(self) -> StartCommand:
        """The command in it."""
        return StartCommand(
            step=self.step, service=self.service, entity_id=self.entity_id, payload=self.payload
        )


class TransitionMessage(ChangeMessage, frozen=True, kw_only=True, rename="camel"):
    """``flow-transition``."""

    transition: str
    payload: dict[str, Any] | UnsetType = UNSET
    ok: bool = True
    message: Text | UnsetType = UNSET
    remove: Pointers | UnsetType = UNSET

    def command(self) -> TransitionCommand:
        """The command in it."""
        return TransitionCommand(payload=self.payload, ok=self.ok, message=self.message, remove=self.remove)


class ResetMessage(ChangeMessage, frozen=True, kw_only=True, rename="camel"):
    """``flow-reset``."""

    step: Name | None = None

    def command(self) -> ResetCommand:
        """The command in it."""
        return ResetCommand(step=self.step)
