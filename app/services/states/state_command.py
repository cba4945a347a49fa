"""Commands on their way to a state, and the changes that they propose."""

from collections.abc import Callable
from datetime import datetime, timedelta

from msgspec import UNSET, Struct, UnsetType

from app.contracts.commands import Origin
from app.contracts.definition import FlowDefinition
from app.contracts.record import HistoryRecord, Kind, MergedField
from app.contracts.state import FlowState, Payload, StateId
from app.flow import rules


class StateCommand(Struct, frozen=True):
    """A command for one state.

    Attributes:
        state_id: The state.
        name: The name by which a refusal is recorded.
        command: The arguments, of which the fingerprint of the request is made.
        origin: The source of the command.
        replaces: The command replaces the state, so that a damaged document does not stop it.
        limited: The command counts among the changes that its caller may request in a minute. Parts of a
            larger operation, which counts once, do not.
        of_step: An integration may request it with its own credential at steps that it owns. All other
            commands are refused to such callers.
        on_commit: Called with the record of the change, if the command makes one.
    """

    state_id: StateId
    name: str
    command: object
    origin: Origin
    replaces: bool = False
    limited: bool = False
    of_step: bool = False
    on_commit: Callable[[HistoryRecord], None] | None = None

    @classmethod
    def of_caller(
        cls,
        state_id: StateId,
        name: str,
        command: object,
        origin: Origin,
        *,
        replaces: bool = False,
        of_step: bool = False,
    ) -> "StateCommand":
        """Create a command that counts against the limit of its caller."""
        return cls(state_id, name, command, origin, replaces, limited=True, of_step=of_step)


class ProposedChange(Struct, frozen=True):
    """The change that a command makes to a state.

    Attributes:
        kind: The kind of the record.
        name: The name of the transition, or the kind.
        after: The state afterwards.
        payload: The payload that came with the command.
        ttl: How long the state lives from now; None: as the settings say.
        merged: The fields of the payload in which the command replaced another change.
    """

    kind: Kind
    name: str
    after: FlowState
    payload: Payload | UnsetType = UNSET
    ttl: timedelta | None = None
    merged: tuple[MergedField, ...] | UnsetType = UNSET

    @classmethod
    def of_kind(
        cls, kind: Kind, definition: FlowDefinition, after: FlowState, payload: Payload | UnsetType = UNSET
    ) -> "ProposedChange":
        """Create a change that is recorded by its kind, and renews the state's time as its flow says."""
        return cls(kind, kind, after, payload, definition.flow.ttl)

    @classmethod
    def erasing(cls, last: FlowState, now: datetime) -> "ProposedChange":
        """Create the change that ends a state because the data of its user is erased."""
        return cls("erased", "erased", rules.end(last, "cleared", now))
