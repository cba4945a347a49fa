"""The routes for the export and the import of definitions."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, structs
from starlette.responses import Response

from app.auth.policy import Access, Permission
from app.contracts.definition import FlowDefinition
from app.contracts.errors import (
    FlowNotFoundError,
    FlowStateCorruptionError,
    InsufficientPermissionsError,
    InvalidDefinitionError,
    PayloadTooLargeError,
    VersionConflictError,
)
from app.contracts.flow import Flow
from app.exchange.conversion_report import Unconverted
from app.http.endpoint import Answer, Call, Endpoint
from app.http.routes.flows import DEFINITION_HEADERS, FindingView, finding_view
from app.services.definitions.exchange import CheckedFlow, ExportFormat, ImportFormat


class ExportQuery(Struct, frozen=True, rename="camel"):
    """``format``: the definition as JSON or YAML, or as a machine of XState v5.

    ``version``: export this version, instead of the newest one.
    """

    format: ExportFormat = "json"
    version: Annotated[int, Meta(ge=1, le=999_999_999)] | None = None


class ImportQuery(Struct, frozen=True, rename="camel"):
    """``format``: the format of the body, a definition or a machine of XState v5.

    ``dryRun``: store nothing; the answer has the definition.
    """

    format: ImportFormat = "json"
    dry_run: bool = False


class MachineView(Struct, frozen=True, rename="camel"):
    """A machine for ``createMachine`` of XState, and the parts of the flow that XState does not support."""

    machine: dict[str, Any]
    not_carried: list[Unconverted]


class ImportView(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The outcome of an import.

    ``published`` is false if the newest version is the same already, and after a dry run, whose
    ``definition`` is what would be published. ``findings`` are the warnings of the check, absent if there
    are none.
    """

    flow: str
    published: bool
    not_carried: list[Unconverted]
    findings: list[FindingView] = []
    version: int | UnsetType = UNSET
    definition: Flow | UnsetType = UNSET


Machine = Annotated[dict[str, Any], Meta(description="The configuration of a machine of XState v5.")]


async def _export(call: Call) -> Answer:
    query: ExportQuery = call.query
    exported = await call.service.exchange.export(
        call.path["flow_id"], query.format, caller=call.caller, version=query.version
    )
    content, headers = exported.content, _headers(exported.definition)
    if isinstance(content, str):
        return Answer(Response(content, headers=headers, media_type="application/yaml"))
    if isinstance(content, dict):
        return Answer(MachineView(content, exported.unconverted), headers=headers)
    return Answer(content, headers=headers)


async def _import(call: Call) -> Answer:
    query: ImportQuery = call.query
    if query.dry_run:
        checked = await call.service.exchange.check(call.body, query.format)
        view = _import_view(checked, published=False)
        return Answer(structs.replace(view, definition=checked.flow))
    done = await call.service.exchange.import_flow(call.body, query.format, caller=call.caller)
    view = structs.replace(_import_view(done, published=done.published), version=done.definition.version)
    headers = _headers(done.definition)
    if done.published:
        headers["Location"] = f"/api/flows/{done.flow.flow}"
    return Answer(view, 201 if done.published else 200, headers)


def _import_view(checked: CheckedFlow, *, published: bool) -> ImportView:
    findings = [finding_view(finding) for finding in checked.findings]
    return ImportView(checked.flow.flow, published, checked.unconverted, findings)


def _headers(definition: FlowDefinition) -> dict[str, str]:
    return {"ETag": f'"{definition.version}"', "Flow-Version": str(definition.version)}


EXCHANGE_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/flows/{flow_id}/export",
        name="exportFlow",
        access=Access(Permission.READ_FLOWS, for_services=True),
        summary="Export a flow as JSON, YAML, or a machine of XState v5 with the parts that XState lacks",
        handle=_export,
        query=ExportQuery,
        answers={200: (Flow, MachineView)},
        answer_headers=DEFINITION_HEADERS,
        other_media_types={"application/yaml": str},
        errors=(InsufficientPermissionsError, FlowNotFoundError, FlowStateCorruptionError),
    ),
    Endpoint(
        method="POST",
        path="/api/flows/import",
        name="importFlow",
        access=Access(Permission.ADMIN),
        summary="Publish a definition or a machine of XState v5: a new flow, or the next version of one",
        handle=_import,
        query=ImportQuery,
        body=Any,
        described_body=(Flow, Machine),
        body_of="definition",
        answers={201: ImportView, 200: ImportView},
        answer_headers=(*DEFINITION_HEADERS, "Location"),
        errors=(
            InsufficientPermissionsError,
            InvalidDefinitionError,
            PayloadTooLargeError,
            VersionConflictError,
            FlowStateCorruptionError,
        ),
    ),
]
