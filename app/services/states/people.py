"""Operations of people on a state: naming participants, claims, and withdrawn votes."""

from collections.abc import Callable
from datetime import datetime

from app.contracts.callers import Caller
from app.contracts.commands import ClaimCommand, Origin, ParticipantsCommand
from app.contracts.definition import FlowDefinition
from app.contracts.record import Kind
from app.contracts.state import FlowState
from app.flow.people import approvals, assignment, claims
from app.flow.people.callers import caller_on
from app.services.definitions.catalog import DefinitionCatalog
from app.services.states.changes import StateChanges
from app.services.states.identification import Identification
from app.services.states.state_command import ProposedChange, StateCommand

Decision = Callable[[FlowDefinition, FlowState, datetime, Caller], FlowState | None]
"""Decides the state after an operation of the effective caller; None: nothing changes."""


class PeopleOperations:
    """Decides each operation with the rules of ``app.flow.people`` and has it executed."""

    def __init__(
        self, changes: StateChanges, catalog: DefinitionCatalog, identification: Identification
    ) -> None:
        self._changes = changes
        self._catalog = catalog
        self._identification = identification

    async def assign(
        self,
        user_id: str,
        flow_id: str,
        command: ParticipantsCommand,
        *,
        entity_id: str | None = None,
        origin: Origin,
    ) -> FlowState:
        """Replace the people with roles on a state.

        Raises:
            InvalidRequestError: A role is not declared, or an entry is malformed; it lists every fault.
            InsufficientPermissionsError: The caller may not name people with one of the roles.
            FlowNotStartedError: No state is running.
        """
        return await self._change(
            (user_id, flow_id, entity_id),
            "assigned",
            command,
            origin,
            lambda definition, state, now, caller: assignment.assign_participants(
                definition, state, command, now, caller
            ),
        )

    async def claim(
        self,
        user_id: str,
        flow_id: str,
        command: ClaimCommand,
        *,
        entity_id: str | None = None,
        origin: Origin,
    ) -> FlowState:
        """Claim the tasks of a role at the present step, or renew the claim.

        Raises:
            ClaimedError: Another person has claimed them.
            InvalidTransitionError: There is nothing to claim at this step.
            InsufficientPermissionsError: The caller does not have the role on the state.
        """
        return await self._change(
            (user_id, flow_id, entity_id),
            "claimed",
            command,
            origin,
            lambda definition, state, now, caller: claims.claim(definition, state, command, now, caller),
        )

    async def release(
        self,
        user_id: str,
        flow_id: str,
        command: ClaimCommand,
        *,
        entity_id: str | None = None,
        origin: Origin,
    ) -> FlowState:
        """Release a claim. Without one, nothing changes.

        Raises:
            InsufficientPermissionsError: The claim is of another person, and the caller may not take it over.
        """
        return await self._change(
            (user_id, flow_id, entity_id),
            "released",
            command,
            origin,
            lambda definition, state, now, caller: claims.release(definition, state, command, now, caller),
        )

    async def withdraw(
        self, user_id: str, flow_id: str, *, entity_id: str | None = None, origin: Origin
    ) -> FlowState:
        """Withdraw the caller's vote at the present step. Without one, nothing changes.

        Raises:
            FlowNotStartedError: No state is running.
            StatePausedError: An administrator has paused the state.
        """
        return await self._change(
            (user_id, flow_id, entity_id),
            "withdrawn",
            None,
            origin,
            lambda definition, state, now, caller: approvals.withdraw(state, now, caller),
        )

    async def _change(
        self,
        ids: tuple[str, str, str | None],
        kind: Kind,
        command: object,
        origin: Origin,
        decision: Decision,
    ) -> FlowState:
        state_id = await self._identification.of(*ids, origin.caller)

        async def decide(state: FlowState | None, now: datetime) -> ProposedChange | None:
            present = await self._changes.started(state, state_id)
            definition = await self._catalog.pinned(present)
            caller = caller_on(definition.flow, present, origin.caller)
            after = decision(definition, present, now, caller)
            return None if after is None else ProposedChange.of_kind(kind, definition, after)

        after, _ = await self._changes.change(StateCommand.of_caller(state_id, kind, command, origin), decide)
        return after
