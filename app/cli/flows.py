"""``flows``: definitions of flows."""

import sys
from pathlib import Path

import click

from app.cli.command import echo, main, on_store, with_service
from app.cli.origin import CLI_CALLER
from app.contracts.definition import Finding
from app.contracts.errors import DefinitionSourceError
from app.flow.validation import check_flow
from app.services import FlowService
from app.sources.files import FileSource


@main.group()
def flows() -> None:
    """Flow definitions."""


@flows.command("list")
@on_store
def list_flows() -> None:
    """List every flow: slug, version, steps, title, source; and a file that the version outranks."""

    async def run(service: FlowService) -> None:
        async for definition in service.definitions.all(caller=CLI_CALLER):
            flow = definition.flow
            outranked = service.definitions.outranked.get(flow.flow)
            source = definition.source
            if outranked is not None:
                source += f" (outranks {outranked.place}, see flows hand-back)"
            columns = (
                flow.flow,
                f"v{definition.version}",
                f"{len(flow.steps)} steps",
                flow.title or "",
                source,
            )
            echo("\t".join(columns))

    with_service(run)


@flows.command()
@click.argument("flow_id", metavar="ID")
@on_store
def show(flow_id: str) -> None:
    """Show a flow: its steps and transitions."""

    async def run(service: FlowService) -> None:
        definition = await service.definitions.current(flow_id, CLI_CALLER)
        flow = definition.flow
        echo(f"{flow.flow} v{definition.version} ({definition.source}) {flow.title or ''}".rstrip())
        for step in flow.steps.values():
            mark = "*" if step.step == flow.initial_step else " "
            echo(f" {mark}{step.index}: {step.step}")
            for transition in step.transitions.values():
                marks = [m for m in ("explicit", "reversible") if getattr(transition, m)]
                echo(f"      {transition.transition} -> {transition.step} {' '.join(marks)}".rstrip())

    with_service(run)


@flows.command("hand-back")
@click.argument("flow_id", metavar="ID")
@on_store
def hand_back(flow_id: str) -> None:
    """Publish the flow of a file over a caller's version, so that changes of the file apply again."""

    async def run(service: FlowService) -> None:
        definition = await service.definitions.hand_back(flow_id)
        echo(f"{flow_id} v{definition.version} published, from {definition.source}")

    with_service(run)


@flows.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def validate(files: tuple[Path, ...]) -> None:
    """Check definitions; needs no server.

    Prints every finding with advice, and exits with 1 if one is an error.
    """
    failed = False
    checked = warned = 0
    for file in files:
        try:
            found = FileSource(file).find()
        except DefinitionSourceError as refusal:
            echo(str(refusal))
            failed = True
            continue
        for definition in found:
            checked += 1
            if definition.fault:
                echo(definition.fault)
                failed = True
                continue
            for finding in check_flow(definition.raw):
                echo(f"{definition.place}: {finding_line(finding)}")
                failed |= finding.severity == "error"
                warned += finding.severity == "warning"
    if failed:
        sys.exit(1)
    warnings = f", {_plural(warned, 'warning')}" if warned else ""
    echo(f"{_plural(checked, 'definition')} checked, no errors{warnings}.")


def finding_line(finding: Finding) -> str:
    """Format a finding as ``path.inside: what is wrong; what to do``, in one line."""
    segments = finding.pointer.split("/")[1:]
    inside = ".".join(segment.replace("~1", "/").replace("~0", "~") for segment in segments) or "(whole)"
    severity = "" if finding.severity == "error" else "warning: "
    line = f"{inside}: {severity}{finding.message}; {finding.advice}"
    return "".join(character if character.isprintable() else "�" for character in line)


def _plural(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
