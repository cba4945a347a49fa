"""The group of commands, and how each fails: one clear line, a non-zero exit."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from app.contracts.errors import FlowError, StoreUnavailableError
from app.contracts.ports import BusUnavailableError, DefinitionSourceError
from app.main import open_service
from app.process.embedded import EmbeddedError
from app.process.workers import PortError
from app.services import FlowService
from config.log import configure_logging
from config.settings import Settings, SettingsError, load_settings
from models.database import DatabaseRefusedError

T = TypeVar("T")


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as refusal:
            lines = str(refusal).splitlines()
            click.echo("\n".join(f"server-flow: {line}" for line in lines), err=True)
            sys.exit(2)
        except DatabaseRefusedError as refusal:
            click.echo(f"server-flow: {refusal.advice} (FLOW_MONGO_URL)", err=True)
            sys.exit(1)
        except StoreUnavailableError:
            click.echo("server-flow: MongoDB does not answer (FLOW_MONGO_URL)", err=True)
            sys.exit(1)
        except (EmbeddedError, PortError, DefinitionSourceError, FlowError) as refusal:
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
    settings = settings or load_settings()
    configure_logging("warning", settings.log_format)

    async def run() -> T:
        async with open_service(settings) as service:
            return await use(service)

    return asyncio.run(run())
