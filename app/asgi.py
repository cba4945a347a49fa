"""The ASGI application of a worker: the service over HTTP and Socket.IO."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from starlette.applications import Starlette

from app.auth.claims import ClaimNames
from app.auth.service_keys import KeyVerifier
from app.auth.tokens import TokenVerifier
from app.contracts.errors import StoreUnavailableError
from app.http.address_limit import AddressLimit
from app.http.application import build_application
from app.http.edge import Edge
from app.kit.client_address import TrustedProxies
from app.main import Backend, definition_sources, follow_sources
from app.process.database_status import STATUS
from app.process.parent_death import end_with_parent
from config.log import IDENTITY, configure_logging
from config.settings import Settings, load_settings
from realtime.gateway.handlers import SOCKETS_PATH, FlowSockets


def token_verifier(settings: Settings, service_keys: KeyVerifier | None = None) -> TokenVerifier:
    """Create the verifier of tokens by the settings, and of the API keys of services."""
    secret = settings.jwt_secret or settings.jwt_public_key
    return TokenVerifier(
        key=secret.get_secret_value() if secret else None,
        algorithms=settings.algorithms,
        audience=settings.jwt_audience,
        issuer=settings.expected_issuer,
        claims=ClaimNames(*settings.jwt_claims),
        service_keys=service_keys,
        **_keys_of_issuers(settings),
    )


def _keys_of_issuers(settings: Settings) -> dict[str, Any]:
    """Create what verifies tokens of others, and load the libraries for it, if the settings name them."""
    if not (settings.jwks_url or settings.oidc_issuer or settings.ed25519_keys):
        return {}
    keys = import_module("app.token_keys")
    return {"signing_keys": keys.signing_keys(settings), "envelopes": keys.envelopes(settings)}


def create_app() -> Any:
    """Create the ASGI application of one worker, by the settings of the environment."""
    end_with_parent()  # a worker that another process started; ``serve`` sees to its own
    return _create_app(prepared=False)


def create_prepared_app() -> Any:
    """Create the application for a worker of ``serve``, which has prepared the database."""
    return _create_app(prepared=True)


def _sockets(parts: Backend, verifier: TokenVerifier, settings: Settings) -> FlowSockets:
    return FlowSockets(
        parts.service,
        verifier,
        transports=settings.socket_transports,
        cors_origins=settings.cors_origins,
        max_message_bytes=settings.max_message_bytes,
        names_user_by_subject=verifier.names_user_by_subject,
    )


def _create_app(*, prepared: bool) -> Any:
    settings = load_settings()
    settings.require_token_check()
    configure_logging(settings.log_level, settings.log_format)
    parts = Backend(settings)
    IDENTITY.worker = parts.bus.worker
    proxies = TrustedProxies(settings.trusted_networks)
    verifier = token_verifier(settings, parts.service.integrations.keys)
    sockets = _sockets(parts, verifier, settings)

    async def check_database() -> None:
        if STATUS.problem is not None:
            raise StoreUnavailableError(STATUS.problem)
        await parts.database.ping()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with (
            parts.running(patient=True, prepared=prepared) as service,
            follow_sources(definition_sources(service, settings)),
        ):
            sockets.start()
            gc.freeze()  # modules and classes stay: a full collection need not look at them, 0.1 s each time
            gc.enable()
            warm_up = asyncio.get_running_loop().run_in_executor(None, verifier.warm_up)
            try:
                yield
            finally:
                await warm_up
                await sockets.stop()

    http = build_application(
        parts.service,
        verifier,
        checks={"mongodb": check_database, "redis": parts.check_subscribed},
        cors_origins=settings.cors_origins,
        max_payload_bytes=settings.max_payload_bytes,
        lifespan=lifespan,
        strict_readiness=settings.ready_strict,
        proxies=proxies,
        max_definition_bytes=settings.max_definition_bytes,
    )
    limited = AddressLimit(sockets.application(http), parts.service.clients.requests, prefix=SOCKETS_PATH)
    return Edge(limited, proxies, prefix=SOCKETS_PATH)
