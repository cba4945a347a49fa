"""The route of diagrams."""

from typing import Annotated

from msgspec import Meta
from starlette.responses import Response

from app.contracts.errors import FlowNotFoundError, FlowStateCorruptionError, InsufficientPermissionsError
from app.diagrams.formats import Format, diagram
from app.http.endpoint import Answer, Call, Endpoint, UserQuery

MEDIA_TYPES: dict[Format, str] = {"mermaid": "text/plain", "dot": "text/vnd.graphviz", "svg": "image/svg+xml"}
"""``application/vnd.mermaid`` is registered too, but browsers save it instead of showing it."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class DiagramQuery(UserQuery, frozen=True, rename="camel"):
    """``user_id``: highlight the current step of this user's state, on the version that the state runs on.
    ``version``: not that version, nor the newest, but this."""

    format: Format = "mermaid"
    version: Annotated[int, Meta(ge=1, le=999_999_999)] | None = None


async def _diagram(call: Call) -> Answer:
    query: DiagramQuery = call.query
    flow_id, state = call.path["flow_id"], None
    if query.user_id is not None:
        state = await call.service.get_flow_state(call.user_id, flow_id, caller=call.caller)
    version = state.version if state and query.version is None else query.version
    if version is None:
        definition = await call.service.definitions.current(flow_id, call.caller)
    else:
        definition = await call.service.definitions.version(flow_id, version, call.caller)
    headers = {
        "Content-Type": f"{MEDIA_TYPES[query.format]}; charset=utf-8",
        "Content-Security-Policy": _POLICY,
        "Flow-Version": str(definition.version),
    }
    drawn = diagram(definition.flow, query.format, state.step if state else None)
    return Answer(Response(drawn, headers=headers))


DIAGRAM_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/flows/{flow_id}/diagram",
        name="drawFlow",
        summary="A flow as a diagram in Mermaid, DOT or SVG; with userId, where that user's state is",
        handle=_diagram,
        query=DiagramQuery,
        answers={200: str},
        errors=(InsufficientPermissionsError, FlowNotFoundError, FlowStateCorruptionError),
        media_type=MEDIA_TYPES["mermaid"],
        other_media_types={MEDIA_TYPES["dot"]: str, MEDIA_TYPES["svg"]: str},
        answer_headers=("Flow-Version",),
    ),
]
