"""The group of commands, and how each fails: one clear line, a non-zero exit."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from app.contracts.errors import FlowError, StoreUnavailableError
from app.contracts.ports import BusUnavailableError, DefinitionSourceError
from app.process import StartError
from app.services import FlowService
from config.log import configure_logging
from config.settings import Settings, SettingsError, load_settings

T = TypeVar("T")


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as refusal:
            lines = str(refusal).splitlines()
            click.echo("\n".join(f"server-flow: {line}" for line in lines), err=True)
            sys.exit(2)
        except StoreUnavailableError as refusal:
            click.echo(f"server-flow: {refusal.advice} (FLOW_MONGO_URL)", err=True)
            sys.exit(1)
        except (StartError, DefinitionSourceError, FlowError) as refusal:
            click.echo(f"server-flow: {refusal}", err=True)
            sys.exit(1)
        except BusUnavailableError as refusal:
            click.echo(f"server-flow: {refusal} (FLOW_REDIS_URL)", err=True)
            sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="server-flow")
def main() -> None:
    """Keeps people's progress through multi-step flows."""


def with_service(use: Callable[[FlowService], Awaitable[T]], settings: Settings | None = None) -> T:
    """Run ``use`` with a service by the settings; logs below warnings are not shown."""
    from app.main import open_service  # noqa: PLC0415 - the drivers: half a second that others do not need

    settings = settings or load_settings()
    configure_logging("warning", settings.log_format)

    async def run() -> T:
        async with open_service(settings) as service:
            return await use(service)

    return asyncio.run(run())
