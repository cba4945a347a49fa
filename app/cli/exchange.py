"""``flows export`` and ``flows import``: definitions as JSON, YAML and machines of XState."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast, get_args

import click
import msgspec

from app.cli.command import echo, on_store, with_service
from app.cli.flows import finding_line, flows
from app.cli.origin import CLI_CALLER
from app.contracts.definition import Finding
from app.contracts.errors import InvalidDefinitionError
from app.exchange.conversion_report import Unconverted
from app.exchange.xstate_import import from_xstate
from app.flow.validation import parse_flow
from app.services import FlowService
from app.services.definitions.exchange import ExportedFlow, ExportFormat
from app.sources.files import FileSource


@flows.command()
@click.argument("flow_id", metavar="ID")
@click.option(
    "--format",
    "form",
    type=click.Choice(get_args(ExportFormat)),
    default="json",
    show_default=True,
    help="xstate: a machine for createMachine of XState v5.",
)
@click.option("--version", type=click.IntRange(min=1), help="Export this version instead of the newest.")
@on_store
def export(flow_id: str, form: str, version: int | None) -> None:
    """Print a flow. The parts that XState does not support are listed on stderr."""

    async def run(service: FlowService) -> ExportedFlow:
        return await service.exchange.export(
            flow_id, cast("ExportFormat", form), caller=CLI_CALLER, version=version
        )

    exported = with_service(run)
    if isinstance(exported.content, str):
        click.echo(exported.content, nl=False)
    else:
        echo(_indented_json(exported.content))
    _print_unconverted(flow_id, exported.unconverted)


@flows.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["auto", "xstate"]),
    default="auto",
    show_default=True,
    help="auto: definitions, by the extensions of the files. xstate: machines of XState v5.",
)
@click.option("--dry-run", is_flag=True, help="Print the definitions and publish nothing; needs no server.")
@on_store
def import_flows(files: tuple[Path, ...], form: str, *, dry_run: bool) -> None:
    """Publish definitions: a new flow, or the next version of one that differs.

    Warnings of the check, and the parts of a machine that a flow cannot express, are listed on stderr.
    """

    async def run(service: FlowService) -> None:
        for place, raw in _definitions(files, form):
            with _exit_on_faults(place):
                imported = await service.exchange.import_flow(raw, "json", caller=CLI_CALLER)
            _print_warnings(place, imported.findings)
            done = "published" if imported.published else "is the same already"
            echo(f"{place}: {imported.flow.flow} v{imported.definition.version} {done}")

    if not dry_run:
        with_service(run)
        return
    for place, raw in _definitions(files, form):
        with _exit_on_faults(place):
            flow, warnings = parse_flow(raw)
        _print_warnings(place, warnings)
        echo(_indented_json(flow))


def _print_warnings(place: str, warnings: Sequence[Finding]) -> None:
    for finding in warnings:
        echo(f"{place}: {finding_line(finding)}", err=True)


def _definitions(files: tuple[Path, ...], form: str) -> Iterator[tuple[str, object]]:
    for file in files:
        for place, raw in FileSource(file).read().items():
            if form == "xstate":
                with _exit_on_faults(place):
                    imported = from_xstate(raw)
                _print_unconverted(place, imported.not_carried)
                yield place, imported.flow
                continue
            if isinstance(raw, dict) and "states" in raw and "steps" not in raw:
                raise click.UsageError(f"{place}: has states, not steps; use --format xstate for a machine")
            yield place, raw


def _print_unconverted(place: str, not_carried: Sequence[Unconverted]) -> None:
    """Print a line for each part: ``place: path.inside: converted: reason``, or ``dropped``."""
    for each in not_carried:
        kind = "converted" if each.converted else "dropped"
        echo(_format_line(place, each.pointer, f"{kind}: {each.reason}"), err=True)


@contextmanager
def _exit_on_faults(place: str) -> Iterator[None]:
    """Print the faults of a definition and exit with 1."""
    try:
        yield
    except InvalidDefinitionError as refusal:
        for fault in refusal.faults:
            echo(_format_line(place, fault.pointer, fault.message), err=True)
        sys.exit(1)


def _format_line(place: str, pointer: str, message: str) -> str:
    segments = pointer.split("/")[1:]
    inside = ".".join(segment.replace("~1", "/").replace("~0", "~") for segment in segments) or "(whole)"
    line = f"{place}: {inside}: {message}"
    return "".join(character if character.isprintable() else "�" for character in line)


def _indented_json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value).decode(), indent=2)
