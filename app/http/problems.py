"""The one renderer of errors: RFC 9457 ``application/problem+json``."""

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.contracts.errors import (
    AuthenticationRequiredError,
    FlowError,
    InternalError,
    MethodNotAllowedError,
    NotFoundError,
    RateLimitedError,
    cut,
)
from app.contracts.wire.errors import problem_view
from config.log import describe

log = structlog.get_logger("http")


INSTANCE_CHARACTERS = 1000
"""Characters of a path in an answer and in a log line; a target may have 64 KiB."""
SHOWN_CHARACTERS = 200
"""Characters of a path in a message."""
PROBES = {"/livez", "/readyz"}
"""Paths that load balancers request; they are not limited, and logged with the level debug."""
LOGGED = "flow.logged"
"""The key, in the scope of a request, of additional fields of its log line."""


def log_with_request(request: Request, **fields: str) -> None:
    """Add fields to the log line of a request."""
    request.scope.get(LOGGED, {}).update(fields)


def problem(error: FlowError, instance: str) -> Response:
    """Render an error as an answer. ``instance`` is the path of the request."""
    headers = {}
    if isinstance(error, AuthenticationRequiredError):
        headers["WWW-Authenticate"] = 'Bearer realm="server-flow"'
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, RateLimitedError) and error.policy is not None:
        name, per_minute = error.policy
        headers["RateLimit-Policy"] = f'"{name}";q={per_minute};w=60'
        headers["RateLimit"] = f'"{name}";r=0;t={error.retry_after}'
    return Response(
        msgspec.json.encode(problem_view(error, cut(instance, INSTANCE_CHARACTERS))),
        status_code=error.status,
        headers=headers,
        media_type="application/problem+json",
    )


async def flow_error(request: Request, error: Exception) -> Response:
    """Answer a FlowError that a route raised."""
    refusal = error if isinstance(error, FlowError) else InternalError()
    log_with_request(request, code=refusal.code)
    return problem(refusal, request.url.path)


async def http_error(request: Request, error: Exception) -> Response:
    """Answer an error of Starlette itself: an unknown route or method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    refusal: FlowError
    path = cut(request.url.path, SHOWN_CHARACTERS)
    if status == 405:
        refusal = MethodNotAllowedError(
            f"{path} does not support {request.method}; /openapi.json lists the methods of each route"
        )
    elif status == 404:
        refusal = NotFoundError(f"There is no route {path}; /openapi.json lists them")
    else:
        refusal = InternalError()
    log_with_request(request, code=refusal.code)
    answer = problem(refusal, request.url.path)
    answer.headers.update(getattr(error, "headers", None) or {})
    return answer


def unexpected(path: str, error: BaseException) -> Response:
    """Answer an unexpected error, which is logged without its message."""
    log.error("request failed", path=cut(path, INSTANCE_CHARACTERS), **describe(error))
    return problem(InternalError(), path)
