"""The Starlette application: the list of routes and what is around them."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import StatelessLifespan

from app.auth.tokens import TokenVerifier
from app.contracts.errors import FlowError
from app.http.administration import ADMINISTRATION_ENDPOINTS
from app.http.endpoint import Endpoint, Handler
from app.http.flows import FLOW_ENDPOINTS
from app.http.middleware import RequestLog
from app.http.openapi import openapi
from app.http.operation import Check, operation_endpoints
from app.http.problems import flow_error, http_error
from app.http.states import STATE_ENDPOINTS
from app.services import FlowService

EXPOSED_HEADERS = ["ETag", "Flow-Version", "Location", "Retry-After", "X-Request-Id"]


def all_endpoints(checks: Mapping[str, Check]) -> list[Endpoint]:
    """Every endpoint of the service."""
    return [
        *STATE_ENDPOINTS,
        *FLOW_ENDPOINTS,
        *ADMINISTRATION_ENDPOINTS,
        *operation_endpoints(checks),
    ]


def build_application(
    service: FlowService,
    verifier: TokenVerifier,
    *,
    checks: Mapping[str, Check],
    cors_origins: Sequence[str],
    max_payload_bytes: int,
    lifespan: StatelessLifespan[Starlette],
) -> Starlette:
    """The HTTP side of the service."""
    endpoints = all_endpoints(checks)
    document = msgspec.json.encode(openapi(endpoints, version("server-flow")))

    async def describe(_: Request) -> Response:
        return Response(document, media_type="application/json")

    handlers = [(e, Handler(e, service, verifier, max_payload_bytes)) for e in endpoints]
    routes = [_route(endpoint, handler) for endpoint, handler in handlers]
    routes.append(Route("/openapi.json", describe, methods=["GET"]))
    middleware = [Middleware(RequestLog)]
    if cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(cors_origins),
                allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
                allow_headers=["Authorization", "Content-Type", "If-Match", "Idempotency-Key"],
                expose_headers=EXPOSED_HEADERS,
            )
        )
    return Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={FlowError: flow_error, HTTPException: http_error},
        lifespan=lifespan,
    )


def _route(endpoint: Endpoint, handler: Handler) -> Route:
    async def respond(request: Request) -> Response:
        return await handler(request)

    return Route(endpoint.path, respond, methods=[endpoint.method], name=endpoint.name)
