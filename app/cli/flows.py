"""``flows``: definitions."""

import sys
from pathlib import Path

import click
import msgspec

from app.cli.command import main, with_service
from app.contracts.errors import InvalidDefinitionError
from app.contracts.flow import Flow
from app.contracts.ports import DefinitionSourceError
from app.flow.validation import check_flow
from app.providers.files import FileSource
from app.services import FlowService

ACTOR = "command-line"


@main.group()
def flows() -> None:
    """Flow definitions."""


@flows.command("list")
def list_flows() -> None:
    """List every flow: slug, version, steps, title."""

    async def run(service: FlowService) -> None:
        async for definition in service.definitions.all():
            flow = definition.flow
            click.echo(f"{flow.flow}\tv{definition.version}\t{len(flow.steps)} steps\t{flow.title or ''}")

    with_service(run)


@flows.command()
@click.argument("flow_id", metavar="ID")
def show(flow_id: str) -> None:
    """Show a flow: its steps and transitions."""

    async def run(service: FlowService) -> None:
        definition = await service.definitions.current(flow_id)
        flow = definition.flow
        click.echo(f"{flow.flow} v{definition.version} ({definition.source}) {flow.title or ''}".rstrip())
        for step in flow.steps.values():
            mark = "*" if step.step == flow.initial_step else " "
            click.echo(f" {mark}{step.index}: {step.step}")
            for transition in step.transitions.values():
                marks = [m for m in ("explicit", "reversible") if getattr(transition, m)]
                click.echo(f"      {transition.transition} -> {transition.step} {' '.join(marks)}".rstrip())

    with_service(run)


@flows.command()
@click.argument("flow_id", metavar="ID")
def export(flow_id: str) -> None:
    """Print a flow as JSON."""

    async def run(service: FlowService) -> Flow:
        return (await service.definitions.current(flow_id)).flow

    click.echo(msgspec.json.format(msgspec.json.encode(with_service(run)).decode(), indent=2))


@flows.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def validate(files: tuple[Path, ...]) -> None:
    """Check definitions; needs no server. Prints every finding, exits with 1 when one is an error."""
    failed = False
    checked = 0
    for file in files:
        try:
            found = FileSource(file).read()
        except DefinitionSourceError as refusal:
            click.echo(str(refusal))
            failed = True
            continue
        for place, raw in found.items():
            checked += 1
            for finding in check_flow(raw):
                inside = finding.pointer.lstrip("/").replace("/", ".") or "(whole)"
                warning = "" if finding.severity == "error" else "warning: "
                click.echo(f"{place}: {inside}: {warning}{finding.message}")
                failed |= finding.severity == "error"
    if failed:
        sys.exit(1)
    click.echo(f"{checked} definition{'s' if checked != 1 else ''} checked, no errors.")


@flows.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def import_flows(files: tuple[Path, ...]) -> None:
    """Publish definitions: a new flow, or the next version of one that differs."""

    async def run(service: FlowService) -> None:
        for file in files:
            for place, raw in FileSource(file).read().items():
                try:
                    done = await _publish(service, raw)
                except InvalidDefinitionError as refusal:
                    for fault in refusal.faults:
                        inside = fault.pointer.lstrip("/").replace("/", ".") or "(whole)"
                        click.echo(f"{place}: {inside}: {fault.message}", err=True)
                    sys.exit(1)
                click.echo(f"{place}: {done}")

    with_service(run)


async def _publish(service: FlowService, raw: object) -> str:
    definition, published = await service.definitions.put(raw, actor=ACTOR, source="import")
    done = "published" if published else "is the same already"
    return f"{definition.flow.flow} v{definition.version} {done}"
