"""Search: the states of a flow with a value in a searchable field."""

from collections.abc import Sequence
from contextlib import suppress

from msgspec import DecodeError, json

from app.auth.policy import require_searching
from app.contracts.callers import Caller
from app.contracts.errors import (
    Fault,
    FlowError,
    FlowNotFoundError,
    InsufficientPermissionsError,
    InvalidRequestError,
    StoreUnavailableError,
)
from app.contracts.flow import Flow
from app.contracts.ports.clock import Clock
from app.contracts.ports.states import StatePage, StateStore
from app.contracts.state import FlowState, StateId
from app.flow.people.field_access import may_search
from app.flow.values.search_terms import search_term
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.visibility import Visibility


class StateSearch:
    """Finds states by values that their documents have in the clear (``searchable``)."""

    def __init__(
        self, states: StateStore, catalog: DefinitionCatalog, access: Visibility, clock: Clock
    ) -> None:
        self._states = states
        self._catalog = catalog
        self._access = access
        self._clock = clock

    async def find(
        self, flow_id: str, match: str, caller: Caller, *, after: str | None = None, limit: int = 100
    ) -> StatePage:
        """Return the states of all users with a value in a field, by key, as the caller may see them.

        A state is found by the values of its last change, if its version lists the field as searchable, and
        if the caller sees the field.

        Args:
            flow_id: The flow.
            match: The field and the value, such as ``/orderNumber=A-1``. The value is a text, or the JSON of
                a number, true, false or null.
            caller: An administrator, a service, or support staff.
            after: The ``next`` of the previous page.
            limit: The largest number of states. A page may have fewer, also none, and not be the last one.

        Raises:
            InsufficientPermissionsError: The caller is none of them, or may not see the flow or the field.
            FlowNotFoundError: There is no such flow.
            InvalidRequestError: The field is not searchable in the newest version.
        """
        require_searching(caller)
        StateId(flow_id, "")
        await self._access.require_visible(flow_id, caller)
        newest = await self._catalog.newest(flow_id)
        if newest is None:
            raise FlowNotFoundError(flow_id)
        pointer, value = _field(newest.flow, match)
        if not may_search(newest.flow, caller, pointer):
            raise InsufficientPermissionsError(f"Your roles do not see the field {pointer}", flowId=flow_id)
        page = await self._states.find_by_terms(
            _terms(flow_id, pointer, value), after=after, limit=limit, now=self._clock.now()
        )
        seen = [state for state in page.states if await self._sees(state, caller, pointer)]
        return StatePage(await self._access.with_transitions_of_all(seen, caller), page.next)

    async def _sees(self, state: FlowState, caller: Caller, pointer: str) -> bool:
        """Return whether the caller sees the field of a state, by the version that it is pinned to."""
        try:
            definition = await self._catalog.pinned(state)
        except StoreUnavailableError:
            raise
        except FlowError:
            return False
        mask = self._access.mask(definition.flow, state, caller, "list")
        return mask is None or mask.shows_all_of(pointer)


def _field(flow: Flow, match: str) -> tuple[str, str]:
    """Return the searchable field that a match names, and the text of its value."""
    searchable = sorted(flow.searchable or (), key=len, reverse=True)
    for pointer in searchable:
        if match.startswith(f"{pointer}="):
            return pointer, match[len(pointer) + 1 :]
    listed = ", ".join(flow.searchable or ())
    known = f"the searchable fields are {listed}" if listed else "the flow has no searchable field"
    raise InvalidRequestError([Fault("/match", f"must be a field and a value, as in /field=value; {known}")])


def _terms(flow_id: str, pointer: str, value: str) -> Sequence[str]:
    """Return the terms of a text, and of the JSON value that it may be."""
    values: list[object] = [value]
    with suppress(DecodeError):
        values.append(json.decode(value))
    found = (search_term(flow_id, pointer, each) for each in values)
    return list(dict.fromkeys(term for term in found if term is not None))
