"""What administrators do with states."""

from datetime import datetime

from app.contracts.command import Origin, PauseCommand
from app.contracts.state import FlowState
from app.flow import rules
from app.services.catalog import DefinitionCatalog
from app.services.changes import StateChanges, changed, request
from app.services.executor import Change


class Administration:
    """Hold and release states."""

    def __init__(self, changes: StateChanges, catalog: DefinitionCatalog) -> None:
        self._changes = changes
        self._catalog = catalog

    async def pause_flow(
        self, user_id: str, flow_id: str, command: PauseCommand, *, origin: Origin | None = None
    ) -> FlowState:
        """Hold a state: until it is resumed, what would move it raises StatePausedError. Pausing a
        paused state changes nothing."""

        async def decide(state: FlowState | None, now: datetime) -> Change | None:
            present = await self._changes.started(state, flow_id)
            if present.status == "paused":
                return None
            definition = await self._catalog.pinned(present)
            return changed("paused", definition, rules.pause(definition, present, command, now))

        after, _ = await self._changes.change(request(user_id, flow_id, "paused", command, origin), decide)
        return after

    async def resume_flow(self, user_id: str, flow_id: str, *, origin: Origin | None = None) -> FlowState:
        """Release a paused state. Resuming one that is not paused changes nothing."""

        async def decide(state: FlowState | None, now: datetime) -> Change | None:
            present = await self._changes.started(state, flow_id)
            if present.status != "paused":
                return None
            definition = await self._catalog.pinned(present)
            return changed("resumed", definition, rules.resume(definition, present, now))

        after, _ = await self._changes.change(request(user_id, flow_id, "resumed", None, origin), decide)
        return after
