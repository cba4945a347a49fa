"""The port through which use cases of definitions read a user's state."""

from typing import Protocol

from app.contracts.callers import Caller
from app.contracts.state import FlowState


class StateReader(Protocol):
    """Reads states as a caller may see them."""

    async def get(
        self, user_id: str, flow_id: str, caller: Caller, entity_id: str | None = None
    ) -> FlowState | None:
        """Return the state, None if none was started.

        Raises:
            FlowNotFoundError: There is neither a state nor such a flow.
            InsufficientPermissionsError: The caller must not see the flow.
        """

    async def require(
        self, user_id: str, flow_id: str, caller: Caller, entity_id: str | None = None
    ) -> FlowState:
        """Return the state.

        Raises:
            FlowNotStartedError: None was started.
            FlowNotFoundError: There is neither a state nor such a flow.
            InsufficientPermissionsError: The caller must not see the flow.
        """
