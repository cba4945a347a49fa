"""Runs ``serve`` and ``worker``, the only commands that load the whole server."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import structlog

from app.cli.command import echo
from app.cli.welcome import welcome_text
from app.contracts.callers import Caller
from app.contracts.errors import StoreUnavailableError
from app.main import (
    Backend,
    definition_sources,
    follow_sources,
    publish_definitions,
    read_definitions,
)
from app.process.embedded import EmbeddedServers
from app.process.workers import open_port, run_workers
from app.web.bundle import Bundle
from config.log import configure_logging
from config.settings import Settings, SettingsError, load_settings

log = structlog.get_logger("serve")

FIRST_FLOW = "user-onboarding"
"""The flow of the example that the start prints, if it exists."""


def run_server(host: str, port: int, workers: int, data_dir: Path | None) -> None:
    """Serve until a signal arrives or an embedded server fails, and exit."""
    settings = load_settings(data_dir=data_dir)
    if not settings.embedded:
        settings.require_token_check()
    if workers > 1 and "polling" in settings.socket_transports:
        raise SettingsError(
            "FLOW_SOCKET_TRANSPORTS: polling needs all requests of a client at one worker, which workers on "
            "one port cannot guarantee: use --workers 1, several times, behind sticky sessions"
        )
    configure_logging(settings.log_level, settings.log_format)
    read_definitions(settings)
    bound = open_port(host, port)
    servers = EmbeddedServers(settings.data_dir, echo) if settings.embedded else None
    dead: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1 if dead else 0))
    try:
        if servers is not None:
            settings = servers.start(settings)
            servers.watch(lambda reason: _stop_because(reason, dead))
        first_flow = _prepare(settings, servers)
        if settings.encryption_keys is None:
            log.info("stored data is not encrypted", setting="FLOW_ENCRYPTION_KEYS")
        _export_to_workers(settings)
        address = f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
        served = run_workers(
            bound,
            workers,
            message_limit=settings.max_message_bytes,
            max_connections=settings.max_connections,
            on_ready=lambda: _print_welcome(address, host, settings, servers, first_flow),
        )
    except KeyboardInterrupt:
        served = True
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # it is ending already
        if servers is not None:
            servers.stop()
    sys.exit(0 if served and not dead else 1)


def run_background() -> None:
    """Run the background jobs until a signal arrives."""
    settings = load_settings()
    if settings.embedded:
        raise SettingsError("FLOW_MONGO_URL and FLOW_REDIS_URL must name the servers that 'serve' uses")
    configure_logging(settings.log_level, settings.log_format)
    asyncio.run(_work(settings))


def _prepare(settings: Settings, servers: EmbeddedServers | None) -> str | None:
    """Check both servers, create the indexes and publish definitions, before any worker starts.

    Returns:
        A flow for the example that the start prints, if everybody may see one.
    """
    try:
        return asyncio.run(_publish_definitions(settings))
    except StoreUnavailableError as error:
        if servers is None:
            raise
        raise servers.explain(error) from None


async def _publish_definitions(settings: Settings) -> str | None:
    async with Backend(settings, sends_events=False).running() as service:
        published = await publish_definitions(service, settings)
        page = await service.definitions.page(None, 100, caller=Caller(user_id=""))
    if published:
        log.info("definitions published", flows=published)
    flows = [definition.flow.flow for definition in page.items]
    return FIRST_FLOW if FIRST_FLOW in flows else next(iter(flows), None)


async def _work(settings: Settings) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with (
        Backend(settings).running() as service,
        follow_sources(definition_sources(service, settings)),
    ):
        echo("The background jobs are running; Ctrl-C stops them.")
        await ended.wait()


def _export_to_workers(settings: Settings) -> None:
    """Put the settings into the environment, from which the workers read them."""
    for name in ("mongo_url", "redis_url", "jwt_secret", "encryption_keys"):
        secret = getattr(settings, name)
        if secret is not None:
            os.environ[f"FLOW_{name.upper()}"] = secret.get_secret_value()
    # Workers find servers named, so that their own default would be that of production. A path with a comma
    # cannot be listed: only that of the shipped examples can have one, and those do not change.
    listed = [source for source in settings.definitions if "," not in source]
    os.environ["FLOW_DEFINITIONS"] = ",".join(listed)


def _print_welcome(
    address: str, host: str, settings: Settings, servers: EmbeddedServers | None, first_flow: str | None
) -> None:
    data_dir = servers.data_dir if servers is not None else None
    is_terminal = sys.stdout.isatty()
    echo(welcome_text(address, host, settings, data_dir, first_flow, Bundle(), is_terminal=is_terminal))
    sys.stdout.flush()


def _stop_because(reason: str, dead: list[str]) -> None:
    dead.append(reason)
    echo(f"server-flow: {reason}; stopping", err=True)
    os.kill(os.getpid(), signal.SIGTERM)
