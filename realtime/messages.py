"""The bodies of Socket.IO events."""

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from app.contracts.command import ResetCommand, StartCommand, TransitionCommand


class FlowMessage(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """What every event about one state has. ``user_id`` names another user (services only)."""

    flow_id: str
    user_id: str | None = None


class ChangeMessage(FlowMessage, frozen=True, kw_only=True, rename="camel"):
    """What every event that changes a state may have."""

    request_id: str | UnsetType = UNSET
    expected_revision: int | None = None


class StartMessage(ChangeMessage, frozen=True, kw_only=True, rename="camel"):
    """``flow-start``."""

    step: str | None = None
    service: str = ""
    entity_id: str | UnsetType | None = UNSET
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
    message: str | UnsetType = UNSET

    def command(self) -> TransitionCommand:
        """The command in it."""
        return TransitionCommand(payload=self.payload, ok=self.ok, message=self.message)


class ResetMessage(ChangeMessage, frozen=True, kw_only=True, rename="camel"):
    """``flow-reset``."""

    step: str | None = None

    def command(self) -> ResetCommand:
        """The command in it."""
        return ResetCommand(step=self.step)


class Json:
    """JSON for python-socketio: knows our structs, and puts encoded parts in as they are."""

    @staticmethod
    def dumps(value: object, **_: object) -> str:
        """JSON text."""
        return msgspec.json.encode(value).decode()

    @staticmethod
    def loads(text: str | bytes, **_: object) -> Any:
        """The value; ValueError when it is not JSON."""
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            raise ValueError("not JSON") from None
