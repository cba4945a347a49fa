"""``services``: registered services."""

from pathlib import Path

import click

from app.cli.command import chosen_settings, echo, main, on_store, with_service
from app.cli.json_arguments import convert_options, read_json, shown_json
from app.cli.origin import CLI_CALLER
from app.contracts.integration_commands import (
    ApiKeyCommand,
    DisableCommand,
    EnableCommand,
    RegistrationCommand,
    RotateCommand,
)
from app.contracts.wire.integrations import service_view
from app.process.embedded import EmbeddedServers
from app.services import FlowService
from app.services.integrations.administration import RegisteredService
from app.services.integrations.api_keys import NewApiKey
from app.services.integrations.probes import ProbeResult
from config.settings import SettingsError


@main.group()
def services() -> None:
    """Registered services, which receive events."""


_alias = click.argument("alias")


@services.command("list")
@on_store
def list_command() -> None:
    """Print all services.

    A line has the alias, the state, the breaker, the numbers of deliveries and failures, and the address.
    "failed" counts attempts that the service failed, "failed here" those that failed on the side of
    server-flow.
    """

    async def run(service: FlowService) -> list[RegisteredService]:
        return await service.integrations.administration.list_all(CLI_CALLER)

    found = with_service(run)
    for each in found:
        integration, health = each.integration, each.health
        state = "enabled" if integration.enabled else "disabled"
        counts = f"{health.delivered} delivered\t{health.failed} failed\t{health.internal} failed here"
        address = integration.url or ("stream" if integration.stream else "pull")
        echo(f"{integration.alias}\t{state}\t{health.breaker}\t{counts}\t{address}")
    if not found:
        echo("No services are registered; see 'server-flow services register --help'.", err=True)


@services.command()
@_alias
@on_store
def show(alias: str) -> None:
    """Print a service as JSON."""

    async def run(service: FlowService) -> RegisteredService:
        return await service.integrations.administration.read(alias, CLI_CALLER)

    _print_service(with_service(run))


@services.command()
@_alias
@click.argument("registration", default="{}")
@on_store
def register(alias: str, registration: str) -> None:
    """Register a service, or set members of its registration.

    REGISTRATION is a JSON object such as '{"url": "https://payment.example/events"}'. The secret of a new
    service is printed once.
    """
    command = read_json(registration, RegistrationCommand)

    async def run(service: FlowService) -> RegisteredService:
        return await service.integrations.administration.register(alias, command, CLI_CALLER)

    _print_service(with_service(run))


@services.command()
@_alias
@click.option("--expires-in", default=86_400, show_default=True, help="Seconds for which older secrets sign.")
@on_store
def rotate(alias: str, expires_in: int) -> None:
    """Make a new secret and print it.

    The older ones sign too until they expire.
    """
    command = convert_options({"expiresIn": expires_in}, RotateCommand)

    async def run(service: FlowService) -> RegisteredService:
        return await service.integrations.administration.rotate(alias, command, CLI_CALLER)

    _print_service(with_service(run))


@services.command()
@_alias
@on_store
def ping(alias: str) -> None:
    """Send a ping to the webhook of a service.

    It is sent by this command itself, with its settings. Exits with 1 if it fails.
    """

    async def run(service: FlowService) -> ProbeResult:
        return await service.integrations.probes.ping(alias, CLI_CALLER)

    result = with_service(run)
    echo(shown_json(result))
    if not result.ok:
        raise click.exceptions.Exit(1)


@services.command()
@_alias
@click.option("--reason", default="", help="The reason, which the service and operators see.")
@on_store
def disable(alias: str, reason: str) -> None:
    """Deliver no events to a service; they wait."""
    command = convert_options({"reason": reason} if reason else {}, DisableCommand)

    async def run(service: FlowService) -> RegisteredService:
        return await service.integrations.administration.disable(alias, command, CLI_CALLER)

    with_service(run)
    echo(f"{alias} is disabled; its events wait until 'server-flow services enable {alias}'")


@services.command()
@_alias
@click.option(
    "--backlog",
    type=click.Choice(["all", "newest", "none"]),
    default="all",
    show_default=True,
    help="The events that waited: all, the newest one of each state, or none.",
)
@click.option("--since", metavar="TIME", help="Only events from this time on (ISO 8601 with a time zone).")
@on_store
def enable(alias: str, backlog: str, since: str | None) -> None:
    """Deliver events again, those that waited too or some of them."""
    choice = {"backlog": backlog} if since is None else {"backlog": "since", "since": since}
    command = convert_options(choice, EnableCommand)

    async def run(service: FlowService) -> RegisteredService:
        return await service.integrations.administration.enable(alias, command, CLI_CALLER)

    with_service(run)
    echo(f"{alias} is enabled")


@services.command("make-key")
@_alias
@click.option("--name", default="", help="A text for people, such as the program that uses the key.")
@click.option("--expires-in", type=int, help="Seconds of its validity, by default without an end.")
@on_store
def make_key(alias: str, name: str, expires_in: int | None) -> None:
    """Make an API key of a service and print it, once."""
    command = convert_options({"name": name, "expiresIn": expires_in}, ApiKeyCommand)

    async def run(service: FlowService) -> NewApiKey:
        return await service.integrations.keys.create(alias, command, CLI_CALLER)

    echo(with_service(run).text)


@services.command("redis-url")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data directory of the embedded servers.")
def redis_url(data_dir: Path | None) -> None:
    """Print the address of the Redis with the streams.

    It has the password. The address of the embedded Redis changes with each start of 'serve'.
    """
    settings = chosen_settings(data_dir)
    if settings.embedded:
        running = EmbeddedServers(settings.data_dir).running(settings)
        if running is None:
            raise SettingsError(
                f"no embedded servers run in {settings.data_dir.absolute()}; start 'server-flow serve' first"
            )
        settings = running
    if settings.redis_url is not None:
        echo(settings.redis_url.get_secret_value())


def _print_service(found: RegisteredService) -> None:
    view = service_view(
        found.integration,
        found.health,
        waiting=found.waiting,
        secret=found.secret,
        stream_key=found.stream_key,
    )
    echo(shown_json(view))
