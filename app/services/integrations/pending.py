"""The states that wait at the steps of an integration."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from app.auth.policy import require_manager
from app.contracts.callers import Caller
from app.contracts.deliveries import WaitingState
from app.contracts.errors import (
    Fault,
    FlowError,
    InvalidRequestError,
    ServiceNotFoundError,
    StoreUnavailableError,
)
from app.contracts.ports.clock import Clock
from app.contracts.ports.deliveries import DeliveryLanes
from app.contracts.ports.states import StateStore
from app.contracts.state import FlowState
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.visibility import Visibility
from app.services.integrations.matching import waits_at_own_step
from app.services.integrations.registry import IntegrationRegistry

MAX_LISTINGS = 5
"""Parts of the list that are read for a page without a result."""


class PendingState(Struct, frozen=True):
    """A state that waits, the time since which it does, and its place in the list."""

    state: FlowState
    since: datetime
    place: str


class PendingPage(Struct, frozen=True):
    """Waiting states, those that wait for the longest time first.

    ``complete``: the list has also the states that waited before the integration was registered.
    """

    items: Sequence[PendingState]
    next: str | None
    complete: bool


class PendingStates:
    """Lists waiting states, by the notes of the lanes.

    A note follows a commit by a moment, so each state is loaded: one that does not wait any more is left out,
    and its note is removed.
    """

    def __init__(
        self,
        registry: IntegrationRegistry,
        lanes: DeliveryLanes,
        states: StateStore,
        catalog: DefinitionCatalog,
        access: Visibility,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._lanes = lanes
        self._states = states
        self._catalog = catalog
        self._access = access
        self._clock = clock

    async def list_page(
        self,
        alias: str,
        caller: Caller,
        *,
        after: str | None = None,
        limit: int = 100,
        flow_id: str | None = None,
        step: str | None = None,
    ) -> PendingPage:
        """Return waiting states with the transitions that the caller may run.

        Args:
            alias: The integration.
            caller: The integration itself, or an administrator.
            after: The ``next`` of the page before.
            limit: The largest number of states.
            flow_id: Only states of this flow.
            step: Only states at this step.

        Raises:
            InsufficientPermissionsError: The caller is neither.
            ServiceNotFoundError: No service is registered by this alias.
            InvalidRequestError: ``after`` is not from a page of this integration.
        """
        require_manager(caller, alias)
        await self._registry.current()
        integration = self._registry.find(alias)
        if integration is None:
            raise ServiceNotFoundError(alias)
        if after is not None and not after.startswith(f"{alias};"):
            raise InvalidRequestError([Fault("/after", "must be the next of a page of this service")])
        items: list[PendingState] = []
        for _ in range(MAX_LISTINGS):
            noted = await self._lanes.list_waiting(alias, after, limit)
            items = await self._waiting(alias, noted, flow_id, step, caller)
            after = noted[-1].place if len(noted) == limit else None
            if items or after is None:
                break
        return PendingPage(items, after, integration.waiting_listed)

    async def _waiting(
        self, alias: str, noted: Sequence[WaitingState], flow_id: str | None, step: str | None, caller: Caller
    ) -> list[PendingState]:
        """Return those of the noted states that wait, that match and that the caller may see."""
        wanted = [each for each in noted if flow_id in (None, each.state_id.flow_id)]
        loaded = await asyncio.gather(*(self._load(alias, each) for each in wanted))
        ended = [each for each, (_, waits) in zip(wanted, loaded, strict=True) if not waits]
        if ended:
            await self._lanes.end_waiting(alias, ended)
        found = {
            state.key: each
            for each, (state, waits) in zip(wanted, loaded, strict=True)
            if state is not None and waits and step in (None, state.step)
        }
        states = [state for state, _ in loaded if state is not None and state.key in found]
        shown = await self._access.with_transitions_of_all(states, caller)
        return [PendingState(each, found[each.key].since, found[each.key].place) for each in shown]

    async def _load(self, alias: str, noted: WaitingState) -> tuple[FlowState | None, bool]:
        """Return the state if it can be shown, and whether it still waits.

        A state that is unreadable, or that has expired without being ended yet, retains its note.
        """
        try:
            stored = await self._states.load(noted.state_id)
            if stored is None:
                return None, False
            definition = await self._catalog.pinned(stored.state)
        except StoreUnavailableError:
            raise
        except FlowError:
            return None, True
        if not waits_at_own_step(alias, stored.state, definition.flow):
            return None, False
        return (None if stored.state.is_gone_at(self._clock.now()) else stored.state), True
