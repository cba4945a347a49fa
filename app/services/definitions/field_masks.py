"""Masks what callers may not see of payloads, by the definitions of states and records."""

from collections.abc import Callable, Sequence

from app.contracts.callers import Caller, Purpose
from app.contracts.errors import FlowStateCorruptionError
from app.contracts.flow import Flow
from app.contracts.record import HistoryRecord
from app.contracts.state import FlowState
from app.flow.people.field_access import EVERYTHING, mask_for, masked_record, masked_state
from app.flow.values.masking import Mask
from app.services.definitions.catalog import DefinitionCatalog

RegisteredFields = Callable[[str], Sequence[str]]
"""Returns the ``fields`` of a registered integration, none if it lists none."""


class FieldMasks:
    """Applies ``sensitive`` and ``visible`` of definitions.

    Without the definition of a state nobody but administrators sees its payload.

    Args:
        catalog: The definitions.
        fields_of: Returns the fields that a registration lists, for the credentials of integrations.
    """

    def __init__(self, catalog: DefinitionCatalog, fields_of: RegisteredFields) -> None:
        self._catalog = catalog
        self._fields_of = fields_of

    def state(self, flow: Flow, state: FlowState, caller: Caller, purpose: Purpose) -> FlowState:
        """Return a state as the caller may see it; ``flow`` is the version that it is pinned to."""
        return masked_state(state, self.mask(flow, state, caller, purpose))

    async def damaged_state(self, state: FlowState, caller: Caller, purpose: Purpose) -> FlowState:
        """Return a state as the caller may see it, also one whose definition cannot be read."""
        flow = await self._flow(state.flow, state.version)
        return masked_state(state, self.mask(flow, state, caller, purpose))

    async def records(
        self, records: Sequence[HistoryRecord], present: FlowState | None, caller: Caller
    ) -> list[HistoryRecord]:
        """Return records of a state as the caller may see them.

        Args:
            records: The records.
            present: The state, whose participants count; None if it is not there, or cannot be read.
            caller: The reader.
        """
        flows: dict[int, Flow | None] = {}
        shown = []
        for record in records:
            if record.version not in flows:
                flows[record.version] = await self._flow(record.flow_id, record.version)
            state = present or record.after or None
            mask = self.mask(flows[record.version], state, caller, "read")
            shown.append(masked_record(record, mask))
        return shown

    def mask(
        self, flow: Flow | None, state: FlowState | None, caller: Caller, purpose: Purpose
    ) -> Mask | None:
        """Return the parts of a state's payload that the caller does not see, None if it sees all.

        Args:
            flow: The version that the state is pinned to, None if it cannot be read.
            state: The state, None if it is not known who takes part in it.
            caller: The caller.
            purpose: The reason why the state is shown.
        """
        if flow is None or state is None:
            sees_all = caller.trusted or (purpose == "read" and caller.is_administrator)
            return None if sees_all else EVERYTHING
        listed = self._fields_of(caller.service) if caller.service and flow.sensitive else ()
        return mask_for(flow, state, caller, purpose, listed)

    async def _flow(self, flow_id: str, version: int) -> Flow | None:
        try:
            definition = await self._catalog.version(flow_id, version)
        except FlowStateCorruptionError:
            return None
        return None if definition is None else definition.flow
