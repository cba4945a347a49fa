"""The routes of administrators."""

from collections.abc import AsyncIterator
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, structs
from starlette.responses import StreamingResponse

from app.auth.policy import Access, Permission
from app.contracts.commands import BatchAction, BatchOperation
from app.contracts.errors import (
    Fault,
    FlowStateCorruptionError,
    InsufficientPermissionsError,
    InvalidRequestError,
    PayloadTooLargeError,
    StateBusyError,
)
from app.contracts.identifiers import ID_RULE, is_id
from app.contracts.ports.states import StateFilter
from app.contracts.statistics import FlowStatistics
from app.contracts.wire.administration import (
    BatchResult,
    ErasureView,
    PersonalDataView,
    batch_result,
    erasure_view,
    personal_data_view,
)
from app.contracts.wire.encoding import encode
from app.contracts.wire.records import exported_record_view
from app.contracts.wire.states import state_view
from app.http.endpoint import Answer, Call, Endpoint
from app.http.paging import Limit, page_answer
from app.http.routes.state_lists import StatesPage

MAX_OPERATIONS = 1000
EXPORT_PART_BYTES = 262_144
"""Bytes of a part of an export, which is sent at once."""


class PurgeReport(Struct, frozen=True, rename="camel"):
    """How many expired states were ended."""

    purged: int


class FoundStatesQuery(Struct, frozen=True, rename="camel"):
    """``after`` is the ``next`` of the previous page."""

    flow_id: str | None = None
    step: str | None = None
    status: Literal["active", "paused", "completed"] | None = None
    user_id: str | None = None
    entity_id: str | None = None
    after: str | None = None
    limit: Limit = 100


class BatchCommand(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Either ``operations``, or a ``filter`` and the ``operation`` for every state that matches it.

    At most ``limit`` states with keys after ``after`` are changed. ``dryRun``: report the results without
    changing anything.
    """

    operations: Annotated[list[BatchOperation], Meta(max_length=MAX_OPERATIONS)] | UnsetType = UNSET
    filter: StateFilter | UnsetType = UNSET
    operation: BatchAction | UnsetType = UNSET
    after: str | None = None
    limit: Limit = MAX_OPERATIONS
    dry_run: bool = False


class BatchAnswer(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A result for each operation, in their order, or for each state that matched the filter.

    ``next`` is the ``after`` of the next batch, absent after the last one.
    """

    results: list[BatchResult]
    succeeded: int
    failed: int
    next: str | None = None


class PersonalDataQuery(Struct, frozen=True, rename="camel"):
    """The user whose data is exported or erased."""

    user_id: Annotated[str, Meta(min_length=1, max_length=256)]


async def _find(call: Call) -> Answer:
    query: FoundStatesQuery = call.query
    only = StateFilter(query.flow_id, query.step, query.status, query.user_id, query.entity_id)
    page = await call.service.administration.find_states(
        only, after=query.after, limit=query.limit, caller=call.caller
    )
    return page_answer(page.states, state_view, lambda state: state.key, page.next)


async def _batch(call: Call) -> Answer:
    command: BatchCommand = call.body
    faults = _faults_of_batch(call, command)
    if faults:
        raise InvalidRequestError(faults)
    origin = structs.replace(call.origin, dry_run=command.dry_run)
    more = None
    if command.filter is not UNSET and command.operation is not UNSET:
        outcomes, more = await call.service.bulk.run_on_found(
            command.filter, command.operation, origin, after=command.after, limit=command.limit
        )
    else:
        outcomes = await call.service.bulk.run(command.operations or [], origin)
    results = [batch_result(outcome) for outcome in outcomes]
    succeeded = sum(result.ok for result in results)
    return Answer(BatchAnswer(results, succeeded, len(results) - succeeded, more))


def _faults_of_batch(call: Call, command: BatchCommand) -> list[Fault]:
    faults = [
        Fault(
            f"/{name}",
            "must not be sent with a batch; set requestId and expectedRevision of each operation instead",
        )
        for name in ("Idempotency-Key", "If-Match")
        if call.header(name) is not None
    ]
    named = [command.filter is not UNSET, command.operation is not UNSET]
    if command.operations is UNSET:
        if not all(named):
            faults.append(Fault("", "must have either operations, or a filter and an operation"))
        elif command.filter == StateFilter():
            faults.append(Fault("/filter", "must have at least one of flowId, step, status, userId"))
        return faults
    if any(named) or command.after is not None:
        faults.append(Fault("", "must have either operations, or a filter and an operation"))
    for n, operation in enumerate(command.operations):
        if not is_id(operation.user_id):
            faults.append(Fault(f"/operations/{n}/userId", ID_RULE))
    return faults


async def _export(call: Call) -> Answer:
    """Send the document while it is read: a history may be larger than the memory of a worker."""
    found = await call.service.personal_data.begin_export(call.query.user_id, call.caller)
    whole = encode(personal_data_view(found.states))
    head = whole.removesuffix(b"]}")  # the list of records is the last member, and empty

    async def parts() -> AsyncIterator[bytes]:
        buffer = bytearray(head)
        separator = b""
        async for record in found.records:
            buffer += separator + encode(exported_record_view(record))
            separator = b","
            if len(buffer) >= EXPORT_PART_BYTES:
                yield bytes(buffer)
                buffer.clear()
        yield bytes(buffer) + b"]}"

    return Answer(StreamingResponse(parts(), media_type="application/json"))


async def _erase(call: Call) -> Answer:
    return Answer(erasure_view(await call.service.personal_data.erase(call.query.user_id, call.origin)))


async def _purge(call: Call) -> Answer:
    return Answer(PurgeReport(await call.service.purge_expired_flows(caller=call.caller)))


async def _statistics(call: Call) -> Answer:
    return Answer(await call.service.get_flow_statistics())


ADMINISTRATION_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/admin/states",
        name="findFlowStates",
        access=Access(Permission.SUPPORT),
        summary="Find states of all users by flow, step, status or user",
        handle=_find,
        query=FoundStatesQuery,
        answers={200: StatesPage},
        errors=(InsufficientPermissionsError,),
    ),
    Endpoint(
        method="POST",
        path="/api/admin/states/batch",
        name="changeFlowStates",
        access=Access(Permission.ADMIN),
        summary="Run up to 1,000 operations on states, or one operation on the states that match a filter",
        handle=_batch,
        body=BatchCommand,
        body_of="batch",
        answers={200: BatchAnswer},
        errors=(InsufficientPermissionsError, PayloadTooLargeError),
    ),
    Endpoint(
        method="GET",
        path="/api/admin/personal-data",
        name="exportPersonalData",
        access=Access(Permission.ADMIN),
        summary="Export all states and the history of one user",
        handle=_export,
        query=PersonalDataQuery,
        answers={200: PersonalDataView},
        errors=(InsufficientPermissionsError,),
    ),
    Endpoint(
        method="DELETE",
        path="/api/admin/personal-data",
        name="erasePersonalData",
        access=Access(Permission.ADMIN),
        summary="End all states of one user and erase their input; the hash chain of the history stays",
        handle=_erase,
        query=PersonalDataQuery,
        answers={200: ErasureView},
        errors=(
            InsufficientPermissionsError,
            FlowStateCorruptionError,
            StateBusyError,
        ),
    ),
    Endpoint(
        method="POST",
        path="/api/admin/purge",
        name="purgeExpiredFlows",
        access=Access(Permission.ADMIN),
        summary="End all expired states now",
        handle=_purge,
        answers={200: PurgeReport},
        errors=(InsufficientPermissionsError,),
    ),
    Endpoint(
        method="GET",
        path="/api/admin/statistics",
        name="getFlowStatistics",
        access=Access(Permission.SUPPORT),
        summary="Statistics over all states and their history",
        handle=_statistics,
        answers={200: FlowStatistics},
        errors=(InsufficientPermissionsError,),
    ),
]
