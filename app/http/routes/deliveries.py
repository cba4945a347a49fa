"""The routes of deliveries: dead letters, failing states, and replays."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from app.auth.policy import Access, Permission
from app.contracts.deliveries import DeadLetterFilter, FailureReason
from app.contracts.delivery_commands import EditCommand, LettersCommand, ReplayCommand
from app.contracts.errors import (
    DeliveryNotFoundError,
    InsufficientPermissionsError,
    ServiceNotFoundError,
)
from app.contracts.wire.deliveries import (
    DeadLetterView,
    DeliveryView,
    FailingView,
    LettersFilterView,
    dead_letter_view,
    delivery_view,
    failing_view,
    letters_filter_view,
)
from app.http.endpoint import Answer, Call, Endpoint
from app.http.paging import Limit
from app.services.integrations.letters import LettersResult

Moment = Annotated[datetime, Meta(tz=True)]


class LettersQuery(Struct, frozen=True, rename="camel"):
    """A filter of dead letters; ``since`` and ``until`` are times at which they were given up."""

    service: str | None = None
    reason: FailureReason | None = None
    type: str | None = None
    flow_id: str | None = None
    user_id: str | None = None
    entity_id: str | None = None
    since: Moment | None = None
    until: Moment | None = None
    after: str | None = None
    limit: Limit = 100

    @property
    def only(self) -> DeadLetterFilter:
        """The filter."""
        return DeadLetterFilter(
            service=self.service,
            reason=self.reason,
            type=self.type,
            flow_id=self.flow_id,
            user_id=self.user_id,
            entity_id=self.entity_id,
            since=self.since,
            until=self.until,
        )


class PageQuery(Struct, frozen=True):
    """``after`` is the ``next`` of the previous page."""

    after: str | None = None
    limit: Limit = 100


class DeadLettersPage(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Dead letters, and the filter by which exactly those of all pages are redelivered or dropped."""

    items: list[DeadLetterView]
    filter: LettersFilterView
    next: str | None = None


class FailingPage(Struct, frozen=True, rename="camel", omit_defaults=True):
    """States whose next event has failed."""

    items: list[FailingView]
    next: str | None = None


class LettersReport(Struct, frozen=True, rename="camel"):
    """The number of letters that matched, of those that were changed (or would be), and of the others.

    ``skipped`` letters cannot be redelivered: they have no event, or are on their way already.
    """

    matched: int
    changed: int
    skipped: int
    dry_run: bool


class ReplayReport(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The numbers of states and of changes in the range. ``next`` is the ``after`` of the next request."""

    states: int
    changes: int
    dry_run: bool
    next: str | None = None


async def _list(call: Call) -> Answer:
    query: LettersQuery = call.query
    found = await call.service.integrations.letters.list_letters(
        query.only, after=query.after, limit=query.limit, caller=call.caller
    )
    items = [dead_letter_view(letter, whole=False) for letter in found.page.items]
    return Answer(DeadLettersPage(items, letters_filter_view(found.only), found.page.next))


async def _redeliver_found(call: Call) -> Answer:
    command: LettersCommand = call.body
    letters = call.service.integrations.letters
    return _report(
        await letters.redeliver(command.filter, call.caller, dry_run=command.dry_run), command.dry_run
    )


async def _drop_found(call: Call) -> Answer:
    command: LettersCommand = call.body
    letters = call.service.integrations.letters
    return _report(await letters.drop(command.filter, call.caller, dry_run=command.dry_run), command.dry_run)


async def _find(call: Call) -> Answer:
    found = await call.service.integrations.letters.find_delivery(
        call.path["alias"], call.path["event_id"], call.caller
    )
    return Answer(delivery_view(found.logged, found.letter))


async def _edit(call: Call) -> Answer:
    letter = await call.service.integrations.letters.edit(
        call.path["alias"], call.path["event_id"], call.body.event, call.caller
    )
    return Answer(dead_letter_view(letter, whole=True))


async def _redeliver(call: Call) -> Answer:
    only = await _only_one(call)
    return _report(await call.service.integrations.letters.redeliver(only, call.caller, dry_run=False), False)


async def _drop(call: Call) -> Answer:
    only = await _only_one(call)
    await call.service.integrations.letters.drop(only, call.caller, dry_run=False)
    return Answer(status=204)


async def _only_one(call: Call) -> DeadLetterFilter:
    """Return the filter of the letter that a path names. Raises DeliveryNotFoundError."""
    alias, event_id = call.path["alias"], call.path["event_id"]
    await call.service.integrations.letters.read(alias, event_id, call.caller)
    return DeadLetterFilter(service=alias, ids=(event_id,))


async def _failing(call: Call) -> Answer:
    found = await call.service.integrations.letters.list_failing(
        call.path["alias"], after=call.query.after, limit=call.query.limit, caller=call.caller
    )
    return Answer(FailingPage([failing_view(lane) for lane in found.items], found.next))


async def _replay(call: Call) -> Answer:
    command: ReplayCommand = call.body
    result = await call.service.integrations.replays.replay(call.path["alias"], command, call.caller)
    return Answer(ReplayReport(result.states, result.changes, command.dry_run, result.next))


def _report(result: LettersResult, dry_run: bool) -> Answer:
    return Answer(LettersReport(result.matched, result.changed, result.skipped, dry_run))


_REFUSED = (InsufficientPermissionsError,)
_ONE = (InsufficientPermissionsError, DeliveryNotFoundError)
_LETTER = "/api/admin/services/{alias}/deliveries/{event_id}"

DELIVERY_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/admin/dead-letters",
        name="listDeadLetters",
        access=Access(Permission.SERVICE_SUPPORT, for_services=True),
        summary="List events that could not be delivered, those that were given up first first",
        handle=_list,
        query=LettersQuery,
        answers={200: DeadLettersPage},
        errors=_REFUSED,
    ),
    Endpoint(
        method="POST",
        path="/api/admin/dead-letters/redeliver",
        name="redeliverDeadLetters",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Deliver the events of all dead letters that match a filter, or count them",
        handle=_redeliver_found,
        body=LettersCommand,
        answers={200: LettersReport},
        errors=_REFUSED,
    ),
    Endpoint(
        method="POST",
        path="/api/admin/dead-letters/drop",
        name="dropDeadLetters",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Remove all dead letters that match a filter, or count them",
        handle=_drop_found,
        body=LettersCommand,
        answers={200: LettersReport},
        errors=_REFUSED,
    ),
    Endpoint(
        method="GET",
        path=_LETTER,
        name="getDelivery",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Get an event of a service that was delivered or given up, with all attempts",
        handle=_find,
        answers={200: DeliveryView},
        errors=_ONE,
    ),
    Endpoint(
        method="PATCH",
        path=_LETTER,
        name="editDeadLetter",
        access=Access(Permission.ADMIN),
        summary="Replace the event of a dead letter before it is redelivered",
        handle=_edit,
        body=EditCommand,
        answers={200: DeadLetterView},
        errors=_ONE,
    ),
    Endpoint(
        method="POST",
        path=f"{_LETTER}/redeliver",
        name="redeliverDeadLetter",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Deliver the event of a dead letter",
        handle=_redeliver,
        answers={200: LettersReport},
        errors=_ONE,
    ),
    Endpoint(
        method="DELETE",
        path=_LETTER,
        name="dropDeadLetter",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Remove a dead letter; its event is not delivered",
        handle=_drop,
        answers={204: None},
        errors=_ONE,
    ),
    Endpoint(
        method="GET",
        path="/api/admin/services/{alias}/failing",
        name="listFailingDeliveries",
        access=Access(Permission.SERVICE, for_services=True),
        summary="List the states whose next event has failed and is tried again",
        handle=_failing,
        query=PageQuery,
        answers={200: FailingPage},
        errors=_REFUSED,
    ),
    Endpoint(
        method="POST",
        path="/api/admin/services/{alias}/replay",
        name="replayDeliveries",
        access=Access(Permission.SERVICE, for_services=True),
        summary="Deliver events again that were delivered before, marked as a replay",
        handle=_replay,
        body=ReplayCommand,
        answers={200: ReplayReport},
        errors=(InsufficientPermissionsError, ServiceNotFoundError),
    ),
]
