"""``purge``, ``stats`` and ``check-config``."""

import asyncio
import sys
from pathlib import Path

import click
import msgspec
from msgspec import UNSET

from app.cli.command import chosen_settings, echo, main, on_store, with_service
from app.cli.origin import CLI_CALLER
from app.contracts.errors import BusUnavailableError, FlowError, StoreUnavailableError
from app.contracts.statistics import FlowStatistics
from app.process.embedded import EmbeddedServers
from app.services import FlowService
from config.settings import Settings

MAX_SHOWN_REPORTS = 20
"""States that are corrupted, or whose records cannot be delivered."""


@main.command()
@on_store
def purge() -> None:
    """End all expired states."""

    async def run(service: FlowService) -> int:
        return await service.purge_expired_flows(caller=CLI_CALLER)

    echo(f"{with_service(run)} expired states ended")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@on_store
def stats(as_json: bool) -> None:
    """Show statistics over all states and their history."""

    async def run(service: FlowService) -> tuple[FlowStatistics, dict[str, str]]:
        return await service.get_flow_statistics(), await service.background.check.list_reasons(
            MAX_SHOWN_REPORTS
        )

    figures, reports = with_service(run)
    if as_json:
        echo(msgspec.json.encode(figures).decode())
        return
    metrics = figures.performance_metrics
    echo(f"states               {figures.total_flows}")
    echo(f"active users         {figures.active_users}")
    echo(f"completion rate      {figures.completion_rate:.1f} %")
    echo(f"average duration     {figures.average_flow_duration / 1000:.1f} s")
    echo(f"error rate           {100 * figures.error_rate:.2f} %")
    echo(f"corrupted states     {figures.corrupted_states}")
    for key, reason in reports.items():
        echo(f"  {key}: {reason}")
    echo(
        f"response time        {metrics.average_response_time:.1f} ms, p95 {metrics.p95_response_time:.1f} ms"
    )
    echo(f"throughput           {metrics.throughput_per_second:.2f} /s in the last minute")
    for service in figures.services:
        report = "no heartbeat" if service.heartbeat is UNSET else service.heartbeat.status
        condition = f"breaker {service.breaker}" if service.enabled else "disabled"
        attempts = f"{service.delivered} delivered, {service.failed} failed, {service.internal} failed here"
        echo(f"service              {service.alias}: {report}, {condition}, {attempts}")
    for step in figures.popular_steps:
        echo(f"  {step.count:>8} x {step.flow}: {step.step}")


@main.command("check-config")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data directory of the embedded servers.")
def check_config(data_dir: Path | None) -> None:
    """Print the effective settings with masked secrets, and ping both servers."""
    settings = chosen_settings(data_dir)
    for name, value in settings.masked().items():
        echo(f"{name}={value}")
    if settings.private_addresses.all:
        echo("Webhooks may be sent to any private address, also to the metadata service of a cloud.")
    if not settings.embedded and settings.encryption_keys is None:
        echo("Stored data is not encrypted: FLOW_ENCRYPTION_KEYS is not set.")
    if settings.embedded:
        running = EmbeddedServers(settings.data_dir).running(settings)
        if running is None:
            echo("The settings name no servers: 'serve' starts embedded ones.")
            return
        settings = running
    settings.require_token_check()
    sys.exit(asyncio.run(_ping(settings)))


async def _ping(settings: Settings) -> int:
    from app.main import Backend  # noqa: PLC0415 - the drivers, which other commands do not need

    parts = Backend(settings)
    failed = 0
    for name, ping in (("MongoDB", parts.database.ping), ("Redis", parts.bus.ping)):
        try:
            await ping()
            echo(f"{name}: answers")
        except (FlowError, BusUnavailableError) as refusal:
            reason = refusal.advice if isinstance(refusal, StoreUnavailableError) else refusal
            echo(f"{name}: {reason}")
            failed = 1
    await parts.bus.stop()
    await parts.database.close()
    return failed
