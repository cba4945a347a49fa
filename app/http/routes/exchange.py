"""The routes that give definitions out in other formats and take them in."""

import asyncio
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from app.auth.policy import ADMIN
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
from app.exchange.xstate_export import to_xstate
from app.exchange.xstate_import import from_xstate
from app.exchange.yaml import flow_to_yaml
from app.http.endpoint import Answer, Call, Endpoint
from app.http.routes.flows import DEFINITION_HEADERS, FindingView, finding_view


class ExportQuery(Struct, frozen=True, rename="camel"):
    """``format``: the definition as JSON or YAML, or as a machine of XState v5. ``version``: not the newest
    one, but this."""

    format: Literal["json", "yaml", "xstate"] = "json"
    version: Annotated[int, Meta(ge=1, le=999_999_999)] | None = None


class ImportQuery(Struct, frozen=True, rename="camel"):
    """``format``: what the body is, a definition or a machine of XState v5. ``dryRun``: nothing is stored;
    the answer has the definition."""

    format: Literal["json", "xstate"] = "json"
    dry_run: bool = False


class MachineView(Struct, frozen=True, rename="camel"):
    """A machine as ``createMachine`` of XState takes it, and what of the flow XState does not do."""

    machine: dict[str, Any]
    not_carried: list[Unconverted]


class ImportView(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The outcome of an import. ``published`` false: the newest version is the same already, or it was a dry
    run; ``definition`` is what that would have published. ``findings`` are what its check advises; absent
    when that is nothing."""

    flow: str
    published: bool
    not_carried: list[Unconverted]
    findings: list[FindingView] = []
    version: int | UnsetType = UNSET
    definition: Flow | UnsetType = UNSET


Machine = Annotated[dict[str, Any], Meta(description="The configuration of a machine of XState v5.")]


async def _export(call: Call) -> Answer:
    query: ExportQuery = call.query
    flow_id, definitions = call.path["flow_id"], call.service.definitions
    if query.version is None:
        definition = await definitions.current(flow_id, call.caller)
    else:
        definition = await definitions.version(flow_id, query.version, call.caller)
    headers = _headers(definition)
    if query.format == "yaml":
        return Answer(Response(flow_to_yaml(definition.flow), headers=headers, media_type="application/yaml"))
    if query.format == "xstate":
        exported = to_xstate(definition.flow)
        return Answer(MachineView(exported.machine, exported.not_carried), headers=headers)
    return Answer(definition.flow, headers=headers)


async def _import(call: Call) -> Answer:
    query: ImportQuery = call.query
    raw, not_carried = call.body, []
    if query.format == "xstate":
        imported = await asyncio.to_thread(from_xstate, raw)
        raw, not_carried = imported.flow, imported.not_carried
    flow, warnings = await call.service.definitions.parse_with_warnings(raw)
    findings = [finding_view(finding) for finding in warnings]
    if query.dry_run:
        return Answer(ImportView(flow.flow, False, not_carried, findings, definition=flow))
    definition, published = await call.service.definitions.put_parsed(
        flow, actor=call.caller.user_id, source="import"
    )
    view = ImportView(flow.flow, published, not_carried, findings, version=definition.version)
    headers = _headers(definition)
    if published:
        headers["Location"] = f"/api/flows/{definition.flow.flow}"
    return Answer(view, 201 if published else 200, headers)


def _headers(definition: FlowDefinition) -> dict[str, str]:
    return {"ETag": f'"{definition.version}"', "Flow-Version": str(definition.version)}


EXCHANGE_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/flows/{flow_id}/export",
        name="exportFlow",
        summary="A flow as JSON, as YAML, or as a machine of XState v5 with what XState does not do",
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
        scope=ADMIN,
    ),
]
