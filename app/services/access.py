"""What a caller is shown: the flows that it may see, and the transitions that it may run."""

from app.contracts.command import ADMIN, Caller
from app.contracts.errors import InsufficientPermissionsError
from app.contracts.ports import Clock
from app.contracts.state import FlowState
from app.flow import access, rules
from app.services.catalog import DefinitionCatalog


class Access:
    """Asks the definitions: the newest version who may see a flow, a state's own version what may run."""

    def __init__(self, catalog: DefinitionCatalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    async def require_visible(self, flow_id: str, caller: Caller) -> None:
        """Raise InsufficientPermissionsError when the caller must not see a flow. Whether there is such a
        flow is not asked."""
        if ADMIN in caller.scopes:
            return
        newest = await self._catalog.newest(flow_id)
        if newest is not None:
            access.require_visible(newest.flow, caller)

    async def is_for_all(self, flow_id: str) -> bool:
        """Whether everybody may see a flow."""
        newest = await self._catalog.newest(flow_id)
        return newest is None or newest.flow.roles is None

    async def is_visible(self, flow_id: str, caller: Caller) -> bool:
        """Whether the caller may see a flow."""
        try:
            await self.require_visible(flow_id, caller)
        except InsufficientPermissionsError:
            return False
        return True

    async def require_clearable(self, state: FlowState, caller: Caller) -> None:
        """Raise InsufficientPermissionsError when the caller must not clear a state."""
        if ADMIN not in caller.scopes:  # an administrator may, also when the definition is damaged
            definition = await self._catalog.current_or_pinned(state)
            access.require_clearable(definition.flow, caller)

    async def with_transitions(self, state: FlowState, caller: Caller) -> FlowState:
        """The state with the transitions that the caller may run now."""
        definition = await self._catalog.pinned(state)
        return rules.with_transitions(definition, state, caller, self._clock.now())
