"""Access of callers whose credential is limited to one integration (``Caller.service``)."""

from app.contracts.callers import Caller
from app.contracts.definition import FlowDefinition
from app.contracts.errors import FlowStateCorruptionError, service_limit_error
from app.contracts.flow import Flow
from app.contracts.state import FlowState
from app.flow.step_services import is_targeted, owns_a_step, owns_current_step, serves
from app.services.definitions.catalog import DefinitionCatalog


def is_readable(flow: Flow, alias: str) -> bool:
    """Return whether a service may read a definition: it owns a step, or a state may target it."""
    return owns_a_step(flow, alias) or is_targeted(flow)


class ServiceAccess:
    """Decides by the services of steps, in the newest version of a flow or in that of a state.

    Owning a step is the permission: the roles of a flow hide it from people, not from its services. Roles of
    a transition are required of services, too.
    """

    def __init__(self, catalog: DefinitionCatalog) -> None:
        self._catalog = catalog

    async def sees_flow(self, flow_id: str, version: int | None, caller: Caller) -> bool:
        """Return whether the service may read a definition. An unknown flow passes.

        A flow with a step of whichever service a state targets is readable for all services.

        Args:
            flow_id: The flow.
            version: The version that is read, None for the newest.
            caller: The caller.
        """
        newest = await self._newest(flow_id)
        found = [newest, None if version is None else await self._catalog.version(flow_id, version)]
        known = [each.flow for each in found if each is not None]
        if not known:
            return await self._is_unknown(flow_id)
        return any(is_readable(flow, caller.service) for flow in known)

    async def owns_newest(self, flow_id: str, caller: Caller) -> bool:
        """Return whether the service owns a step of the newest version: it may read all states then."""
        newest = await self._newest(flow_id)
        return newest is not None and owns_a_step(newest.flow, caller.service)

    async def sees(self, flow_id: str, state: FlowState | None, caller: Caller) -> bool:
        """Return whether the service may read a state, None for one that does not exist."""
        if await self.owns_newest(flow_id, caller):
            return True
        if state is None:
            return await self._is_unknown(flow_id)
        pinned = await self._catalog.version(state.flow, state.version)
        return pinned is not None and serves(pinned.flow, caller.service, state.service)

    async def require_current_step(self, state: FlowState, caller: Caller) -> None:
        """Raise InsufficientPermissionsError unless the service owns the step at which the state is."""
        definition = await self._catalog.pinned(state)
        if not owns_current_step(definition.flow, state, caller.service):
            raise service_limit_error(caller.service)

    async def _is_unknown(self, flow_id: str) -> bool:
        try:
            return await self._catalog.newest(flow_id) is None
        except FlowStateCorruptionError:
            return False

    async def _newest(self, flow_id: str) -> FlowDefinition | None:
        try:
            return await self._catalog.newest(flow_id)
        except FlowStateCorruptionError:  # a state can be read without it
            return None
