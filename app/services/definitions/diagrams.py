"""Diagrams of flows, with the step of a user's state highlighted."""

import asyncio
from typing import TYPE_CHECKING

from msgspec import Struct

from app.contracts.callers import Caller
from app.services.definitions.publisher import Definitions
from app.services.definitions.state_reader import StateReader

if TYPE_CHECKING:
    from app.diagrams.formats import Format

CONCURRENT_LAYOUTS = 1
"""More at a time would take processor time from the event loop, and none would be ready sooner."""


class DrawnFlow(Struct, frozen=True):
    """A diagram of one version of a flow.

    Attributes:
        text: Mermaid, DOT or SVG.
        version: The version that was drawn.
        step: The highlighted step, None if none is.
    """

    text: str
    version: int
    step: str | None


class FlowDiagrams:
    """Draws published flows."""

    def __init__(self, states: StateReader, definitions: Definitions) -> None:
        self._states = states
        self._definitions = definitions
        self._layouts = asyncio.Semaphore(CONCURRENT_LAYOUTS)

    async def draw(
        self,
        flow_id: str,
        form: "Format",
        *,
        caller: Caller,
        user_id: str | None = None,
        entity_id: str | None = None,
        version: int | None = None,
    ) -> DrawnFlow:
        """Draw a flow.

        Args:
            flow_id: The flow.
            form: The format of the diagram.
            caller: The party that the diagram is for.
            user_id: Highlight the current step of this user's state, and draw the version that it runs on.
            entity_id: The entity of that state, if a user has many states in the flow.
            version: Draw this version. None: that of the user's state, else the newest.

        Raises:
            FlowNotFoundError: There is no such flow or version.
            InsufficientPermissionsError: The caller must not see the flow.
        """
        from app.diagrams.formats import diagram  # noqa: PLC0415 - most programs draw nothing

        state = None
        if user_id is not None:
            state = await self._states.get(user_id, flow_id, caller, entity_id)
        if version is None and state is not None:
            version = state.version
        if version is None:
            definition = await self._definitions.current(flow_id, caller)
        else:
            definition = await self._definitions.version(flow_id, version, caller)
        step = None if state is None else state.step
        if form == "svg":
            async with self._layouts:  # a layout takes up to a second
                text = await asyncio.to_thread(diagram, definition.flow, form, step)
        else:
            text = diagram(definition.flow, form, step)
        return DrawnFlow(text, definition.version, step)
