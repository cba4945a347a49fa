"""The Starlette application: routes and middleware."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import StatelessLifespan

from app.auth.tokens import TokenVerifier
from app.contracts.errors import FlowError
from app.http.address_limit import AddressLimit
from app.http.cors import CrossOrigin
from app.http.edge import Edge
from app.http.endpoint import BODY_ALLOWANCE_BYTES, MAX_DEFINITION_BYTES, BodyLimits, Endpoint, Handler
from app.http.middleware import RequestLog
from app.http.openapi import openapi
from app.http.problems import flow_error, http_error
from app.http.routes.administration import ADMINISTRATION_ENDPOINTS
from app.http.routes.audit import AUDIT_ENDPOINTS
from app.http.routes.deliveries import DELIVERY_ENDPOINTS
from app.http.routes.diagrams import DIAGRAM_ENDPOINTS
from app.http.routes.exchange import EXCHANGE_ENDPOINTS
from app.http.routes.explanations import EXPLANATION_ENDPOINTS
from app.http.routes.flows import FLOW_ENDPOINTS
from app.http.routes.health import Check, operation_endpoints
from app.http.routes.history import HISTORY_ENDPOINTS
from app.http.routes.migration import MIGRATION_ENDPOINTS
from app.http.routes.pages import page_routes
from app.http.routes.people import PEOPLE_ENDPOINTS
from app.http.routes.service_feed import SERVICE_FEED_ENDPOINTS
from app.http.routes.service_keys import SERVICE_KEY_ENDPOINTS
from app.http.routes.services import SERVICE_ENDPOINTS
from app.http.routes.state_lists import STATE_LIST_ENDPOINTS
from app.http.routes.states import STATE_ENDPOINTS
from app.http.routes.streams import STREAM_ENDPOINTS
from app.http.routes.tokens import TOKEN_ENDPOINTS
from app.http.static_files import BundleFiles
from app.kit.client_address import TrustedProxies
from app.services import FlowService
from app.web.bundle import Bundle

NO_PROXIES = TrustedProxies()


def all_endpoints(checks: Mapping[str, Check], *, strict_readiness: bool = False) -> list[Endpoint]:
    """Return all endpoints of the service."""
    return [
        *STATE_ENDPOINTS,
        *STATE_LIST_ENDPOINTS,
        *PEOPLE_ENDPOINTS,
        *HISTORY_ENDPOINTS,
        *EXPLANATION_ENDPOINTS,
        *STREAM_ENDPOINTS,
        *SERVICE_FEED_ENDPOINTS,
        *TOKEN_ENDPOINTS,
        *EXCHANGE_ENDPOINTS,
        *FLOW_ENDPOINTS,
        *DIAGRAM_ENDPOINTS,
        *MIGRATION_ENDPOINTS,
        *ADMINISTRATION_ENDPOINTS,
        *AUDIT_ENDPOINTS,
        *DELIVERY_ENDPOINTS,
        *SERVICE_ENDPOINTS,
        *SERVICE_KEY_ENDPOINTS,
        *operation_endpoints(checks, strict=strict_readiness),
    ]


def build_application(
    service: FlowService,
    verifier: TokenVerifier,
    *,
    checks: Mapping[str, Check],
    cors_origins: Sequence[str],
    max_payload_bytes: int,
    lifespan: StatelessLifespan[Starlette],
    strict_readiness: bool = False,
    proxies: TrustedProxies = NO_PROXIES,
    max_definition_bytes: int = MAX_DEFINITION_BYTES,
) -> Starlette:
    """Build the HTTP side of the service."""
    endpoints = all_endpoints(checks, strict_readiness=strict_readiness)
    bundle = Bundle()

    @cache
    def running_version() -> str:  # reads the metadata of the installation, which would delay the start
        return version("server-flow")

    @cache
    def document() -> bytes:  # needs 0.1 s, which would delay the start
        return msgspec.json.encode(openapi(endpoints, running_version()))

    async def describe(_: Request) -> Response:
        return Response(await asyncio.to_thread(document), media_type="application/json")

    body_limits = BodyLimits(max_payload_bytes + BODY_ALLOWANCE_BYTES, max_definition_bytes)
    by_path: dict[str, dict[str, Handler]] = {}
    for endpoint in endpoints:
        handler = Handler(endpoint, service, verifier, body_limits)
        by_path.setdefault(endpoint.path, {})[endpoint.method] = handler
    routes: list[BaseRoute] = [_route(path, handlers) for path, handlers in by_path.items()]
    routes.append(Route("/openapi.json", describe, methods=["GET"]))
    routes.append(BundleFiles(bundle).route())
    routes += page_routes(bundle, running_version)
    middleware = [
        Middleware(Edge, proxies=proxies),
        Middleware(RequestLog),
        Middleware(CrossOrigin, origins=cors_origins),
        Middleware(AddressLimit, limits=service.clients.requests),
    ]
    application = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={FlowError: flow_error, HTTPException: http_error},
        lifespan=lifespan,
    )
    application.router.redirect_slashes = False
    return application


def _route(path: str, handlers: Mapping[str, Handler]) -> Route:
    async def respond(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, respond, methods=list(handlers))
