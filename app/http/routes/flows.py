"""The routes of definitions."""

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from app.auth.policy import Access, Permission
from app.contracts.commands import Origin
from app.contracts.definition import ANY_VERSION, Finding, FlowDefinition
from app.contracts.errors import (
    CheckTimeoutError,
    Fault,
    FlowExistsError,
    FlowNotFoundError,
    FlowStateCorruptionError,
    InsufficientPermissionsError,
    InvalidDefinitionError,
    InvalidRequestError,
    PayloadTooLargeError,
    RateLimitedError,
    VersionConflictError,
)
from app.contracts.flow import Flow, FlowPatch
from app.contracts.results import Retired
from app.contracts.wire.definitions import DefinitionSummary, definition_summary
from app.flow.tokens.prefabs import with_prefabs
from app.flow.values.references import resolve_references
from app.http.endpoint import Answer, Call, Endpoint, NoQuery
from app.http.entity_tags import foreign_tag_error
from app.http.paging import Limit, page_answer

_VERSION_TAG = re.compile(r"([0-9]{1,9})(?:\.[0-9a-f]{1,64})?\Z")


class FlowsQuery(Struct, frozen=True, rename="camel"):
    """``after`` is the slug of the last flow of the previous page."""

    after: str | None = None
    limit: Limit = 100


class FlowQuery(Struct, frozen=True, rename="camel"):
    """``resolve``: replace the ``$name`` references of steps by the values of the config."""

    resolve: bool = False


class RetireQuery(Struct, frozen=True, rename="camel"):
    """``force``: also end the running states; repeat the request if there are ``more``."""

    force: bool = False


class FlowsPage(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Flows by slug. ``next`` is the ``after`` of the next page, absent on the last one.

    A page ends at 1 MB, so that it may have fewer flows than ``limit``.
    """

    items: list[Flow]
    next: str | None = None


class VersionsQuery(Struct, frozen=True, rename="camel"):
    """``after`` is the number of the last version of the previous page."""

    after: Annotated[int, Meta(ge=1)] | None = None
    limit: Limit = 1000


class VersionsPage(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Versions of a flow, newest first. ``next`` is the ``after`` of the next page, absent on the last."""

    items: list[DefinitionSummary]
    next: str | None = None


class FindingView(Struct, frozen=True, rename="camel"):
    """One finding of the check of a definition, with advice how to mend it."""

    pointer: str
    message: str
    severity: Literal["error", "warning"]
    advice: str


class CheckReport(Struct, frozen=True, rename="camel"):
    """The result of a check. ``valid``: no finding is an error. Findings are in the order of the document."""

    valid: bool
    findings: list[FindingView]


CheckedDefinition = Annotated[
    Any, Meta(description="A flow definition, which may be invalid; see the schema Flow.")
]
DEFINITION_HEADERS = ("ETag", "Flow-Version")


def finding_view(finding: Finding) -> FindingView:
    """Show a finding of the check of a definition."""
    return FindingView(finding.pointer, finding.message, finding.severity, finding.advice)


def _definition_answer(definition: FlowDefinition, status: int = 200, *, resolve: bool = False) -> Answer:
    flow = with_prefabs(resolve_references(definition.flow) if resolve else definition.flow)
    headers = {"ETag": f'"{definition.version}"', "Flow-Version": str(definition.version)}
    if status == 201:
        headers["Location"] = f"/api/flows/{flow.flow}"
    return Answer(flow, status, headers)


async def _list(call: Call) -> Answer:
    query: FlowsQuery = call.query
    page = await call.service.definitions.page(query.after, query.limit, caller=call.caller)
    flows = [with_prefabs(definition.flow) for definition in page.items]
    return page_answer(flows, lambda flow: flow, lambda flow: flow.flow, page.next)


async def _create(call: Call) -> Answer:
    actor, expected = call.caller.user_id, _expected_version(call)
    if expected is None:
        created = await call.service.definitions.create(call.body, actor=actor, source="api")
        return _definition_answer(created, 201)
    next_one, _ = await call.service.definitions.put(
        call.body, actor=actor, source="api", expected_version=expected
    )
    return _definition_answer(next_one)


async def _get(call: Call) -> Answer:
    definition = await call.service.definitions.current(call.path["flow_id"], call.caller)
    return _definition_answer(definition, resolve=call.query.resolve)


async def _update(call: Call) -> Answer:
    updated = await call.service.definitions.update(
        call.path["flow_id"],
        call.body,
        actor=call.caller.user_id,
        source="api",
        expected_version=_expected_version(call),
    )
    return _definition_answer(updated)


async def _delete(call: Call) -> Answer:
    origin = Origin(call.caller, client="http")
    done = await call.service.delete_flow(
        call.path["flow_id"],
        force=call.query.force,
        expected_version=_expected_version(call),
        origin=origin,
        source="api",
    )
    return Answer(done) if call.query.force else Answer(status=204)


async def _versions(call: Call) -> Answer:
    query: VersionsQuery = call.query
    found = await call.service.definitions.versions(
        call.path["flow_id"], call.caller, before=query.after, limit=query.limit
    )
    more = str(found[-1].version) if len(found) == query.limit and found[-1].version > 1 else None
    return page_answer(found, definition_summary, lambda version: str(version.version), more)


async def _version(call: Call) -> Answer:
    number = call.path["version"]
    if not re.fullmatch(r"[0-9]{1,9}", number):
        raise InvalidRequestError([Fault("/version", "must be a whole number from 1")])
    definition = await call.service.definitions.version(call.path["flow_id"], int(number), call.caller)
    return _definition_answer(definition, resolve=call.query.resolve)


async def _validate(call: Call) -> Answer:
    findings = await call.service.definitions.check(call.body, call.caller)
    report = CheckReport(
        valid=all(finding.severity != "error" for finding in findings),
        findings=[finding_view(finding) for finding in findings],
    )
    return Answer(report)


def _expected_version(call: Call) -> Collection[int] | None:
    tags = call.if_match
    if tags is None:
        return None
    if tags.any:
        return ANY_VERSION
    found = [match for tag in tags.strong if (match := _VERSION_TAG.match(tag))]
    if len(tags.strong) == 1 and not found and not tags.weak:
        raise foreign_tag_error("If-Match", '"<version>"')
    return [int(match[1]) for match in found]


_READING = (InsufficientPermissionsError, FlowNotFoundError, FlowStateCorruptionError)
_WRITING = (
    InsufficientPermissionsError,
    InvalidDefinitionError,
    PayloadTooLargeError,
    FlowStateCorruptionError,
)

FLOW_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/flows",
        name="listFlows",
        access=Access(Permission.READ_FLOWS, for_services=True),
        summary="List the newest version of every flow",
        handle=_list,
        query=FlowsQuery,
        answers={200: FlowsPage, 304: None},
    ),
    Endpoint(
        method="POST",
        path="/api/flows",
        name="createFlow",
        access=Access(Permission.ADMIN),
        summary="Publish a new flow as version 1; with If-Match, the next version of one that exists",
        handle=_create,
        query=NoQuery,
        body=Any,
        described_body=Flow,
        body_of="definition",
        answers={201: Flow, 200: Flow},
        request_headers=("If-Match",),
        answer_headers=(*DEFINITION_HEADERS, "Location"),
        errors=(*_WRITING, FlowNotFoundError, FlowExistsError, VersionConflictError),
    ),
    Endpoint(
        method="POST",
        path="/api/flows/validate",
        name="validateFlow",
        access=Access(Permission.READ_FLOWS),
        summary="Check a definition and list everything wrong with it; nothing is stored",
        handle=_validate,
        body=CheckedDefinition,
        body_of="definition",
        answers={200: CheckReport},
        errors=(PayloadTooLargeError, RateLimitedError, CheckTimeoutError),
    ),
    Endpoint(
        method="GET",
        path="/api/flows/{flow_id}",
        name="getFlow",
        access=Access(Permission.READ_FLOWS, for_services=True),
        summary="Get the newest version of a flow",
        handle=_get,
        query=FlowQuery,
        answers={200: Flow, 304: None},
        answer_headers=DEFINITION_HEADERS,
        errors=_READING,
    ),
    Endpoint(
        method="PATCH",
        path="/api/flows/{flow_id}",
        name="updateFlow",
        access=Access(Permission.ADMIN),
        summary="Publish the next version: the newest with the given top-level members replaced",
        handle=_update,
        body=Any,
        described_body=FlowPatch,
        body_of="definition",
        answers={200: Flow},
        request_headers=("If-Match",),
        answer_headers=DEFINITION_HEADERS,
        errors=(*_WRITING, FlowNotFoundError, VersionConflictError),
    ),
    Endpoint(
        method="DELETE",
        path="/api/flows/{flow_id}",
        name="deleteFlow",
        access=Access(Permission.ADMIN),
        summary="Retire a flow: nothing starts on it, running states continue; force: they end too",
        handle=_delete,
        query=RetireQuery,
        answers={204: None, 200: Retired},
        request_headers=("If-Match",),
        errors=(*_READING, VersionConflictError),
    ),
    Endpoint(
        method="GET",
        path="/api/flows/{flow_id}/versions",
        name="listFlowVersions",
        access=Access(Permission.READ_FLOWS, for_services=True),
        summary="List all versions of a flow, the newest first",
        handle=_versions,
        query=VersionsQuery,
        answers={200: VersionsPage},
        errors=_READING,
    ),
    Endpoint(
        method="GET",
        path="/api/flows/{flow_id}/versions/{version}",
        name="getFlowVersion",
        access=Access(Permission.READ_FLOWS, for_services=True),
        summary="Get one version of a flow",
        handle=_version,
        query=FlowQuery,
        answers={200: Flow, 304: None},
        answer_headers=DEFINITION_HEADERS,
        errors=_READING,
    ),
]
