"""The routes of the history of a state."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from app.auth.policy import Access, Permission
from app.contracts.errors import (
    EntityRequiredError,
    FlowNotFoundError,
    FlowStateCorruptionError,
    InsufficientPermissionsError,
)
from app.contracts.record import HistoryFilter
from app.contracts.results import Verification
from app.contracts.wire.records import RecordView, record_view
from app.http.endpoint import Answer, Call, Endpoint, StateQuery
from app.http.paging import Limit, page_answer

Moment = Annotated[datetime, Meta(tz=True)]


class HistoryQuery(StateQuery, frozen=True, rename="camel"):
    """``after`` is the id of the last record of the previous page.

    ``since`` (inclusive) and ``until`` (exclusive) are ISO 8601 times with a zone.
    """

    after: str | None = None
    limit: Limit = 100
    since: Moment | None = None
    until: Moment | None = None
    transition: str | None = None
    actor: str | None = None
    success: bool | None = None


class HistoryPage(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Records, the oldest first. ``next`` is the ``after`` of the next page, absent on the last one.

    A page ends at 1 MB, so that it may have fewer records than ``limit``.
    """

    items: list[RecordView]
    next: str | None = None


async def _history(call: Call) -> Answer:
    query: HistoryQuery = call.query
    page = await call.service.page_flow_history(
        call.owner_id,
        call.path["flow_id"],
        entity_id=query.entity_id,
        after=query.after,
        limit=query.limit,
        only=HistoryFilter(query.since, query.until, query.transition, query.actor, query.success),
        caller=call.caller,
    )
    return page_answer(page.items, record_view, lambda record: record.id, page.next)


async def _verify(call: Call) -> Answer:
    return Answer(
        await call.service.verify_flow_history(
            call.owner_id, call.path["flow_id"], entity_id=call.query.entity_id, caller=call.caller
        )
    )


HISTORY_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/flow/{flow_id}/history",
        name="getFlowHistory",
        access=Access(Permission.READ_STATES, for_services=True),
        summary="Read the history of the state over all its epochs, the oldest record first",
        handle=_history,
        query=HistoryQuery,
        answers={200: HistoryPage},
        errors=(
            EntityRequiredError,
            InsufficientPermissionsError,
            FlowNotFoundError,
            FlowStateCorruptionError,
        ),
    ),
    Endpoint(
        method="GET",
        path="/api/flow/{flow_id}/history/verify",
        name="verifyFlowHistory",
        access=Access(Permission.READ_STATES, for_services=True),
        summary="Verify the hash chain of the history; the answer names the first broken link, if any",
        handle=_verify,
        query=StateQuery,
        answers={200: Verification},
        errors=(EntityRequiredError, InsufficientPermissionsError, FlowNotFoundError),
    ),
]
