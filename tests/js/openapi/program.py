"""A program on the client that openapi-python-client generates as the package ``flow_api``."""

import os

from flow_api import AuthenticatedClient
from flow_api.api.administration import change_flow_states
from flow_api.api.definitions import create_flow, get_flow
from flow_api.api.states import execute_transition, get_flow_history, get_flow_state, start_flow
from flow_api.models import (
    BatchAction,
    BatchActionOp,
    BatchAnswer,
    BatchCommand,
    Flow,
    FlowExistsProblem,
    HistoryPage,
    InvalidTransitionProblem,
    RevisionConflictProblem,
    StartCommand,
    StartCommandPayload,
    StateFilter,
    StateView,
    TransitionCommand,
)
from flow_api.types import Unset

slug = os.environ["SLUG"]
client = AuthenticatedClient(os.environ["FLOW_URL"], os.environ["TOKEN"])
admin = AuthenticatedClient(os.environ["FLOW_URL"], os.environ["ADMIN"])

definition = Flow.from_dict(
    {
        "flow": slug,
        "initialStep": "a",
        "meta": {"colour": "red"},
        "resettable": ["clerk"],
        "steps": {
            "a": {
                "index": 0,
                "step": "a",
                "service": "-",
                "transitions": {"go": {"transition": "go", "step": "b"}},
            },
            "b": {"index": 1, "step": "b", "service": "-", "transitions": {}},
        },
    }
)
created = create_flow.sync_detailed(client=admin, body=definition)
assert created.status_code == 201
assert isinstance(created.parsed, Flow)
assert created.parsed.resettable == ["clerk"]
assert created.headers["location"] == f"/api/flows/{slug}"
twice = create_flow.sync(client=admin, body=definition)
assert isinstance(twice, FlowExistsProblem)
assert twice.details.version == 1

assert get_flow_state.sync(slug, client=client) is None
payload = StartCommandPayload.from_dict({"name": "Ada", "list": [1, {"deep": None}]})
body = StartCommand(payload=payload)
started = start_flow.sync_detailed(slug, client=client, body=body, idempotency_key="start")
assert isinstance(started.parsed, StateView)
assert not isinstance(started.parsed.payload, Unset)
assert started.parsed.payload["list"] == [1, {"deep": None}]
assert started.parsed.ok
assert isinstance(started.parsed.message, Unset)
tag = started.headers["etag"]

moved = execute_transition.sync(slug, "go", client=client, body=TransitionCommand(message="m"), if_match=tag)
assert isinstance(moved, StateView)
assert moved.status == "completed"
assert moved.updated_at >= started.parsed.updated_at
late = execute_transition.sync(slug, "go", client=client, if_match=tag)
assert isinstance(late, RevisionConflictProblem), late
assert isinstance(late.details.state, StateView)
assert late.details.state.revision == 1
wrong = execute_transition.sync(slug, "fly", client=client)
assert isinstance(wrong, InvalidTransitionProblem), wrong
assert wrong.code == "INVALID_TRANSITION"
assert wrong.details.allowed == []
assert not wrong.retryable

assert get_flow.sync_detailed(slug, client=client, if_none_match="*").status_code == 304
command = BatchCommand(filter_=StateFilter(flow_id=slug), operation=BatchAction(op=BatchActionOp.RESUME))
batch = change_flow_states.sync(client=admin, body=command)
assert isinstance(batch, BatchAnswer)
assert batch.succeeded == 1
history = get_flow_history.sync(slug, client=client, limit=1)
assert isinstance(history, HistoryPage)
assert history.items[0].metadata.kind == "started"
assert isinstance(history.next_, str)
