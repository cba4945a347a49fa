"""Export and import of definitions: as JSON, as YAML, and as machines of XState v5."""

import asyncio
from typing import Any, Literal

from msgspec import Struct

from app.contracts.callers import Caller
from app.contracts.definition import Finding, FlowDefinition
from app.contracts.flow import Flow
from app.exchange.conversion_report import Unconverted
from app.services.definitions.publisher import Definitions

ExportFormat = Literal["json", "yaml", "xstate"]
ImportFormat = Literal["json", "xstate"]
"""``json``: a definition, which is JSON or was read from YAML; ``xstate``: a machine of XState v5."""
SOURCE = "import"


class ExportedFlow(Struct, frozen=True):
    """One version of a flow in another format.

    Attributes:
        definition: The version that was exported.
        content: The flow itself for ``json``, a text for ``yaml``, a machine for ``xstate``.
        unconverted: The parts of the flow that XState does not do.
    """

    definition: FlowDefinition
    content: Flow | str | dict[str, Any]
    unconverted: list[Unconverted]


class CheckedFlow(Struct, frozen=True):
    """A flow as an import reads it.

    Attributes:
        flow: The flow.
        findings: The advice of the check of its definition.
        unconverted: The parts of a machine that a flow cannot express.
    """

    flow: Flow
    findings: list[Finding]
    unconverted: list[Unconverted]


class ImportedFlow(CheckedFlow, frozen=True):
    """The outcome of an import.

    Attributes:
        definition: The newest version of the flow.
        published: This import made that version. False: it was the same already.
    """

    definition: FlowDefinition
    published: bool


class DefinitionExchange:
    """Exports published flows, and publishes imported ones."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions

    async def export(
        self, flow_id: str, form: ExportFormat, *, caller: Caller, version: int | None = None
    ) -> ExportedFlow:
        """Export a version of a flow, by default the newest.

        Raises:
            FlowNotFoundError: There is no such flow or version.
            InsufficientPermissionsError: The caller must not see the flow.
        """
        from app.exchange.xstate_export import to_xstate  # noqa: PLC0415 - most programs export nothing
        from app.exchange.yaml import flow_to_yaml  # noqa: PLC0415

        if version is None:
            definition = await self._definitions.current(flow_id, caller)
        else:
            definition = await self._definitions.version(flow_id, version, caller)
        if form == "yaml":
            return ExportedFlow(definition, flow_to_yaml(definition.flow), [])
        if form == "xstate":
            exported = to_xstate(definition.flow)
            return ExportedFlow(definition, exported.machine, exported.not_carried)
        return ExportedFlow(definition, definition.flow, [])

    async def check(self, raw: object, form: ImportFormat) -> CheckedFlow:
        """Read a definition or a machine as an import does; publish nothing.

        Args:
            raw: The decoded document.
            form: Its format.

        Raises:
            InvalidDefinitionError: The document has faults; all of them are listed.
        """
        from app.exchange.xstate_import import from_xstate  # noqa: PLC0415 - most programs import nothing

        unconverted: list[Unconverted] = []
        if form == "xstate":
            imported = await asyncio.to_thread(from_xstate, raw)
            raw, unconverted = imported.flow, imported.not_carried
        flow, findings = await self._definitions.parse_with_warnings(raw)
        return CheckedFlow(flow, findings, unconverted)

    async def import_flow(self, raw: object, form: ImportFormat, *, caller: Caller) -> ImportedFlow:
        """Publish a definition or a machine: a new flow, or the next version of one that differs.

        Args:
            raw: The decoded document.
            form: Its format.
            caller: The publisher. That it may publish was checked before.

        Raises:
            InvalidDefinitionError: The document has faults; all of them are listed.
            VersionConflictError: Another version was published meanwhile.
        """
        checked = await self.check(raw, form)
        definition, published = await self._definitions.put_parsed(
            checked.flow, actor=caller.user_id, source=SOURCE
        )
        return ImportedFlow(checked.flow, checked.findings, checked.unconverted, definition, published)
