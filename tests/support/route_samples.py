"""Sound requests at every route and socket event, for the tests of access.

A new route with a required body or query needs a sample here: the authorisation matrix fails without one.
"""

from collections.abc import Mapping
from typing import Any

from app.http.endpoint import Endpoint
from tests.support.case_flows import case_flow
from tests.support.doors import Request

PATHS: Mapping[str, str] = {
    "flow_id": "case",
    "transition": "check",
    "earlier": "1",
    "later": "1",
    "version": "1",
    "alias": "desk",
    "key_id": "0" * 16,
    "event_id": "evt_0",
}
BODIES: Mapping[str, Any] = {
    "startFlow": {"payload": {"more": 1}},
    "executeTransition": {"payload": {"seen": True}},
    "pauseFlow": {"reason": "an audit"},
    "setFlowState": {"step": "checked"},
    "setParticipants": {"participants": []},
    "claimTask": {"role": "reviewer"},
    "createFlow": case_flow("fresh"),
    "importFlow": case_flow("fresh"),
    "validateFlow": case_flow("fresh"),
    "updateFlow": {"clearable": False},
    "migrateFlowStates": {"from": 1, "to": 2},
    "changeFlowStates": {"filter": {"flowId": "case"}, "operation": {"op": "clear"}},
    "registerService": {"rate": 3},
    "redeliverDeadLetters": {"filter": {"service": "desk"}},
    "dropDeadLetters": {"filter": {"service": "desk"}},
    "editDeadLetter": {"event": {"id": "evt_0", "specversion": "1.0"}},
    "replayDeliveries": {"since": "2026-01-01T00:00:00Z"},
}
"""Bodies; other routes with a body accept an empty object."""
QUERIES: Mapping[str, Mapping[str, str]] = {
    "listDeadLetters": {"service": "desk"},
    "searchFlowStates": {"match": "/secret=plum"},
    "exportPersonalData": {"userId": "olga"},
    "erasePersonalData": {"userId": "olga"},
    "findFlowStates": {"userId": "olga"},
}
EVENTS: Mapping[str, dict[str, Any]] = {
    "flow-transition": {"transition": "check"},
    "flow-participants": {"participants": []},
    "flow-claim": {"role": "reviewer"},
}
"""Members of the bodies of events, besides the state."""


def sample_request(
    endpoint: Endpoint, *, user_id: str | None = None, token: str = "", **names: str
) -> Request:
    """Return a sound request at a route.

    Args:
        endpoint: The route.
        user_id: The owner of the state, if the route has one; None: it is not named.
        token: A token of a state, for the routes that read one.
        names: Names in the path that differ from ``PATHS``.
    """
    takes = endpoint.query.__struct_fields__
    query = dict(QUERIES.get(endpoint.name, {}))
    if user_id is not None and "user_id" in takes:
        query["userId"] = user_id
    if "token" in takes:
        query["token"] = token
    body = BODIES.get(endpoint.name, None if endpoint.body is None else {})
    return Request(endpoint.method, endpoint.path.format(**{**PATHS, **names}), query, body, {})


def sample_event(event: str, *, user_id: str | None = None) -> dict[str, Any]:
    """Return a sound body of a socket event about the state of a user; None: it is not named."""
    named = {} if user_id is None else {"userId": user_id}
    return {"flowId": PATHS["flow_id"], **named, **EVENTS.get(event, {})}
