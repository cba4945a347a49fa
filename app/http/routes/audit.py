"""The route of the audit log."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from app.auth.policy import Access, Permission
from app.contracts.audit import AuditFilter
from app.contracts.errors import InsufficientPermissionsError
from app.contracts.wire.audit import AuditEntryView, audit_entry_view
from app.http.endpoint import Answer, Call, Endpoint
from app.http.paging import Limit, page_answer

Text = Annotated[str, Meta(min_length=1, max_length=512)]


class AuditQuery(Struct, frozen=True, rename="camel"):
    """``after`` is the sequence of the last entry of the previous page.

    ``action`` may end with ``.*``; ``user`` selects the acts that concern the data of a user; ``since`` is an
    ISO 8601 time with a zone.
    """

    after: Annotated[int, Meta(ge=0, lt=2**53)] = 0
    limit: Limit = 100
    action: Text | None = None
    target: Text | None = None
    actor: Text | None = None
    user: Text | None = None
    since: Annotated[datetime, Meta(tz=True)] | None = None


class AuditPage(Struct, frozen=True, omit_defaults=True):
    """Entries, the oldest first. ``next`` is the ``after`` of the next page, absent on the last one."""

    items: list[AuditEntryView]
    next: str | None = None


async def _list(call: Call) -> Answer:
    query: AuditQuery = call.query
    audit = call.service.audit
    subject = None if query.user is None else await audit.pseudonyms.user(query.user)
    only = AuditFilter(query.action, query.target, query.actor, subject, query.since)
    page = await audit.page(query.after, query.limit, only)
    return page_answer(page.items, audit_entry_view, lambda entry: str(entry.sequence), page.next)


AUDIT_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/admin/audit",
        name="listAuditEntries",
        summary="Read the audit log: administrative acts, the oldest first",
        handle=_list,
        query=AuditQuery,
        answers={200: AuditPage},
        errors=(InsufficientPermissionsError,),
        access=Access(Permission.ADMIN),
    ),
]
