"""The route that explains the transitions of a state."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from app.auth.policy import Access, Permission
from app.contracts.errors import (
    MAX_FAULTS,
    EntityRequiredError,
    Fault,
    FlowNotFoundError,
    FlowNotStartedError,
    FlowStateCorruptionError,
    InsufficientPermissionsError,
    InvalidRequestError,
    StateBusyError,
)
from app.contracts.state import Payload
from app.contracts.wire.explanations import ExplanationView
from app.flow.values.storable_json import storage_errors
from app.http.endpoint import Answer, Call, Endpoint, StateQuery


class ExplanationQuery(StateQuery, frozen=True, rename="camel"):
    """``transition`` is the one to explain, by default all of the step; ``to`` is a step to find a way to.

    ``payload`` is the payload that would be sent, as JSON. ``roles``, separated by commas, explains what the
    owner could do with a token that has them; for administrators, services and support staff.
    """

    transition: str | None = None
    to: str | None = None
    payload: str | None = None
    roles: str | None = None


async def _explain(call: Call) -> Answer:
    query: ExplanationQuery = call.query
    found = await call.service.explanations.explain(
        call.owner_id,
        call.path["flow_id"],
        caller=call.caller,
        transition=query.transition,
        to=query.to,
        payload=_payload(query.payload),
        roles=None if query.roles is None else [part for part in query.roles.split(",") if part],
        entity_id=query.entity_id,
    )
    return Answer(found)


def _payload(text: str | None) -> Payload | UnsetType:
    """Read a payload. Raises InvalidRequestError."""
    if text is None:
        return UNSET
    try:
        found: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as refusal:
        raise InvalidRequestError([Fault("/payload", f"is not JSON: {refusal}")]) from None
    if not isinstance(found, dict):
        raise InvalidRequestError([Fault("/payload", "must be an object, as JSON")])
    faults = storage_errors(found, "/payload")
    if faults:  # too deep to be reported, or with integers that no guard can read
        raise InvalidRequestError(faults[:MAX_FAULTS])
    return found


EXPLANATION_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/flow/{flow_id}/explain",
        name="explainFlowState",
        access=Access(Permission.READ_STATES),
        summary="Explain why transitions are possible now or not, who may run them, and the way to a step",
        handle=_explain,
        query=ExplanationQuery,
        answers={200: ExplanationView},
        errors=(
            EntityRequiredError,
            InsufficientPermissionsError,
            FlowNotFoundError,
            FlowNotStartedError,
            FlowStateCorruptionError,
            StateBusyError,
        ),
    ),
]
