"""The routes that list states."""

from typing import Annotated

from msgspec import Meta, Struct, field

from app.auth.policy import Access, Permission
from app.contracts.commands import Role
from app.contracts.errors import FlowNotFoundError, FlowStateCorruptionError, InsufficientPermissionsError
from app.contracts.ports.states import ListedStatus, StateFilter
from app.contracts.wire.states import StateView, state_view
from app.http.endpoint import Answer, Call, Endpoint, UserQuery
from app.http.paging import Limit, page_answer


class StatesQuery(UserQuery, frozen=True, rename="camel"):
    """``after`` is the ``next`` of the previous page.

    ``as`` is a role: the states of any owner in which a transition of the present step waits for the caller,
    who is a participant with that role.
    """

    after: str | None = None
    limit: Limit = 100
    role: Role | None = field(name="as", default=None)


class InstancesQuery(UserQuery, frozen=True, rename="camel"):
    """``after`` is the ``next`` of the previous page."""

    status: ListedStatus | None = None
    after: str | None = None
    limit: Limit = 100


class MatchQuery(Struct, frozen=True, rename="camel"):
    """``match`` is a searchable field and its value. ``after`` is the ``next`` of the previous page."""

    match: Annotated[str, Meta(min_length=3, max_length=600, examples=["/orderNumber=A-1"])]
    after: str | None = None
    limit: Limit = 100


class StatesPage(Struct, frozen=True, rename="camel", omit_defaults=True):
    """States by flow. ``next`` is the ``after`` of the next page, absent on the last one.

    A page ends at 1 MB, so that it may have fewer states than ``limit``.
    """

    items: list[StateView]
    next: str | None = None


async def _list(call: Call) -> Answer:
    query: StatesQuery = call.query
    if query.role is not None:
        page = await call.service.administration.list_awaiting(
            query.role, call.caller, after=query.after, limit=query.limit
        )
        return page_answer(page.states, state_view, lambda state: state.key, page.next)
    page = await call.service.administration.find_states(
        StateFilter(user_id=call.user_id), after=query.after, limit=query.limit, caller=call.caller
    )
    return page_answer(page.states, state_view, lambda state: state.key, page.next)


async def _list_of_flow(call: Call) -> Answer:
    query: InstancesQuery = call.query
    page = await call.service.list_flow_states(
        call.user_id,
        call.path["flow_id"],
        status=query.status,
        after=query.after,
        limit=query.limit,
        caller=call.caller,
    )
    return page_answer(page.states, state_view, lambda state: state.place_in_list, page.next)


async def _search(call: Call) -> Answer:
    query: MatchQuery = call.query
    page = await call.service.search.find(
        call.path["flow_id"], query.match, call.caller, after=query.after, limit=query.limit
    )
    return page_answer(page.states, state_view, lambda state: state.key, page.next)


STATE_LIST_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/flow/{flow_id}/states",
        name="listFlowStates",
        access=Access(Permission.READ_STATES, for_services=True),
        summary="List the states of the user in a flow with many for each user, the newest first",
        handle=_list_of_flow,
        query=InstancesQuery,
        answers={200: StatesPage},
        errors=(InsufficientPermissionsError, FlowNotFoundError, FlowStateCorruptionError),
    ),
    Endpoint(
        method="GET",
        path="/api/flows/{flow_id}/states",
        name="searchFlowStates",
        access=Access(Permission.SEARCH, for_services=True),
        summary="Find states of all users by the value of a searchable field, for support staff and services",
        handle=_search,
        query=MatchQuery,
        answers={200: StatesPage},
        errors=(InsufficientPermissionsError, FlowNotFoundError, FlowStateCorruptionError),
    ),
    Endpoint(
        method="GET",
        path="/api/states",
        name="getUserFlows",
        access=Access(Permission.READ_STATES, for_services=True),
        summary="List the states of the user in all flows; as: those that wait for the caller in a role",
        handle=_list,
        query=StatesQuery,
        answers={200: StatesPage},
        errors=(InsufficientPermissionsError, FlowStateCorruptionError),
    ),
]
