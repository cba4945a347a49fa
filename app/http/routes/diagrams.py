"""The route of diagrams."""

from base64 import b64encode
from hashlib import sha256
from typing import Annotated

from msgspec import Meta
from starlette.responses import Response

from app.auth.policy import Access, Permission
from app.contracts.errors import (
    EntityRequiredError,
    FlowNotFoundError,
    FlowStateCorruptionError,
    InsufficientPermissionsError,
)
from app.diagrams.drawing import STYLE
from app.diagrams.formats import Format
from app.http.edge import POLICY_OF_DATA
from app.http.endpoint import Answer, Call, Endpoint, StateQuery

MEDIA_TYPES: dict[Format, str] = {"mermaid": "text/plain", "dot": "text/vnd.graphviz", "svg": "image/svg+xml"}
"""``application/vnd.mermaid`` is registered too, but browsers save it instead of showing it."""
_STYLE_HASH = b64encode(sha256(STYLE.encode()).digest()).decode()
POLICY = f"{POLICY_OF_DATA.decode()}; style-src 'sha256-{_STYLE_HASH}'"
"""The style of an SVG that is opened as a document of its own; nothing else in it is loaded or run."""


class DiagramQuery(StateQuery, frozen=True, rename="camel"):
    """``user_id``: highlight the current step of this user's state, on the version that it runs on.

    ``version``: draw this version, instead of the state's or the newest one.
    """

    format: Format = "mermaid"
    version: Annotated[int, Meta(ge=1, le=999_999_999)] | None = None


async def _diagram(call: Call) -> Answer:
    query: DiagramQuery = call.query
    drawn = await call.service.diagrams.draw(
        call.path["flow_id"],
        query.format,
        caller=call.caller,
        user_id=query.user_id,
        entity_id=query.entity_id,
        version=query.version,
    )
    headers = {
        "Content-Type": f"{MEDIA_TYPES[query.format]}; charset=utf-8",
        "Content-Security-Policy": POLICY,
        "Flow-Version": str(drawn.version),
    }
    return Answer(Response(drawn.text, headers=headers))


DIAGRAM_ENDPOINTS = [
    Endpoint(
        method="GET",
        path="/api/flows/{flow_id}/diagram",
        name="drawFlow",
        access=Access(Permission.READ_STATES, for_services=True),
        summary="Draw a flow in Mermaid, DOT or SVG; with userId, highlight the step of that state",
        handle=_diagram,
        query=DiagramQuery,
        answers={200: str},
        errors=(
            EntityRequiredError,
            InsufficientPermissionsError,
            FlowNotFoundError,
            FlowStateCorruptionError,
        ),
        media_type=MEDIA_TYPES["mermaid"],
        other_media_types={MEDIA_TYPES["dot"]: str, MEDIA_TYPES["svg"]: str},
        answer_headers=("Flow-Version",),
    ),
]
