"""The group of commands. A command that fails prints one line and exits with a non-zero code.

The modules of a command are imported when it runs, so that it loads only what it needs: the drivers, pydantic
and the rules need most of a second of CPU.
"""

import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from app.services import FlowService
    from config.settings import Settings

T = TypeVar("T")


def echo(text: str, *, err: bool = False) -> None:
    """Print a text that may repeat user input, without control characters that a terminal would obey."""
    from config.log import escape_controls  # noqa: PLC0415 - --help does without it

    click.echo(escape_controls(text, allowed="\n\t"), err=err)


class CommandModules(NamedTuple):
    """A command: the first line of its help, and the modules that add it to the group."""

    short_help: str
    modules: tuple[str, ...]


COMMANDS = {
    "audit": CommandModules("The record of administrative acts.", ("app.cli.audit",)),
    "check-config": CommandModules(
        "Print the effective settings with masked secrets, and ping both servers.", ("app.cli.maintenance",)
    ),
    "data": CommandModules(
        "Export all data to a file and import it: backup, and change of the server.", ("app.cli.data",)
    ),
    "deliveries": CommandModules(
        "Events for services: dead letters, failing states, replays.", ("app.cli.deliveries",)
    ),
    "flows": CommandModules(
        "Flow definitions.", ("app.cli.flows", "app.cli.exchange", "app.cli.diagrams", "app.cli.migration")
    ),
    "keys": CommandModules("Keys that encrypt stored data.", ("app.cli.keys",)),
    "purge": CommandModules("End all expired states.", ("app.cli.maintenance",)),
    "serve": CommandModules("Serve the API and Socket.IO.", ("app.cli.serve",)),
    "services": CommandModules("Registered services, which receive events.", ("app.cli.services",)),
    "state": CommandModules("One user's state in one flow.", ("app.cli.state",)),
    "stats": CommandModules("Show statistics over all states and their history.", ("app.cli.maintenance",)),
    "token": CommandModules("Print a signed token for the configured secret.", ("app.cli.token",)),
    "user": CommandModules("Stored data of one user.", ("app.cli.user",)),
    "web": CommandModules("Browser files: flow-client and the pages.", ("app.cli.web",)),
    "webhook": CommandModules(
        "Signatures of webhooks: why one is refused, and signed test requests.", ("app.cli.webhook",)
    ),
    "worker": CommandModules(
        "Run only the background jobs: delivery for dead workers, expiry.", ("app.cli.serve",)
    ),
}


class LazyGroup(click.Group):
    """A group that imports a command when it is used; the list of commands imports none."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an expected error becomes one line and an exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            found = _expected_failure(error)
            if found is None:
                raise
            message, code = found
            for line in message.splitlines():
                echo(f"server-flow: {line}", err=True)
            sys.exit(code)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command ``cmd_name``."""
        if cmd_name in COMMANDS:
            for module in COMMANDS[cmd_name].modules:
                import_module(module)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.short_help) for name, each in sorted(COMMANDS.items())])


def _expected_failure(error: Exception) -> tuple[str, int] | None:
    """Return the message and the exit code for an error that a user can mend; None for others."""
    from app.contracts.errors import (  # noqa: PLC0415 - only when one fails
        BusUnavailableError,
        FlowError,
        KeyServiceUnavailableError,
        OperationalError,
        StoreUnavailableError,
    )
    from app.process import StartError  # noqa: PLC0415
    from config.settings import SettingsError  # noqa: PLC0415

    match error:
        case SettingsError():
            return str(error), 2
        case KeyServiceUnavailableError():
            return error.advice, 1
        case StoreUnavailableError():
            return f"{error.advice} ({_server_hint('FLOW_MONGO_URL', 'mongodb')})", 1
        case BusUnavailableError():
            return f"{error} ({_server_hint('FLOW_REDIS_URL', 'redis')})", 1
        case StartError() | OperationalError() | FlowError():
            return str(error), 1
    return None


def _server_hint(setting: str, server: str) -> str:
    """Return the setting that names a server, or the log of the embedded one."""
    from config.settings import load_settings  # noqa: PLC0415 - only when one fails

    settings = load_settings()
    return f"see {server}.log in the data directory" if settings.embedded else setting


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="server-flow")
def main() -> None:
    """Store people's progress through multi-step flows."""


def on_store(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose the store of a command; ``with_service`` reads them."""
    command = click.option(
        "--create",
        is_flag=True,
        expose_value=False,
        callback=_store_option,
        help="Create a database of embedded servers if there is none.",
    )(command)
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_store_option,
        help="Data directory of the embedded servers.",
    )(command)


def _store_option(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    ctx.meta[f"{__name__}.{option.name}"] = value


def chosen_settings(data_dir: Path | None) -> "Settings":
    """Read the settings, with the data directory of a command.

    Raises:
        SettingsError: The settings name other servers, too.
    """
    from config.settings import SettingsError, load_settings  # noqa: PLC0415 - only commands that need them

    settings = load_settings(data_dir=data_dir)
    if data_dir is not None and not settings.embedded:
        raise SettingsError(
            "--data-dir is for the embedded servers, but FLOW_MONGO_URL and FLOW_REDIS_URL name others: "
            "leave it out, or unset both"
        )
    return settings


def print_store(settings: "Settings") -> None:
    """Print the store of a command on stderr; servers that the settings name, only to a terminal."""
    if settings.embedded:
        echo(f"Store: {settings.data_dir.absolute()} (embedded servers)", err=True)
    elif sys.stderr.isatty():
        shown = settings.masked()
        echo(f"Store: {shown['FLOW_MONGO_DATABASE']} at {shown['FLOW_MONGO_URL']}", err=True)


def with_service(use: "Callable[[FlowService], Awaitable[T]]") -> T:
    """Run ``use`` with a service by the settings and the options of ``on_store``.

    Logs below warnings are not shown. Only ``serve`` publishes the example flows: the service of this
    database may have other definitions. It delivers no events to registered services, which this machine may
    not reach, and whose deliveries would end with the command.
    """
    import asyncio  # noqa: PLC0415 - as all of these, for commands that need a service

    from app.kit.lazy import import_structlog_without_rich  # noqa: PLC0415

    import_structlog_without_rich()
    from app.cli.origin import command_source  # noqa: PLC0415
    from app.main import open_service  # noqa: PLC0415
    from app.services.audit.source import acting_from  # noqa: PLC0415
    from config.log import configure_logging  # noqa: PLC0415

    chosen = click.get_current_context().meta
    settings = chosen_settings(chosen[f"{__name__}.data_dir"])
    configure_logging("warning", settings.log_format)

    async def run() -> T:
        creates = chosen[f"{__name__}.create"]
        opened = open_service(settings, create=creates, examples=creates, sends_events=False)
        async with opened as service:  # this machine may reach no service, which would count as a failure
            print_store(settings)
            return await use(service)

    with acting_from(command_source()):
        return asyncio.run(run())
