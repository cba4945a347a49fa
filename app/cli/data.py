"""``data``: export of a whole embedded database to a file, and its import."""

import asyncio
import signal
import sys
import time
from pathlib import Path

import click

from app.cli.command import chosen_settings, echo, main, print_store
from app.cli.origin import command_source
from app.contracts.transfer import TransferReport
from app.services.audit.source import acting_from
from app.transfer import export_directory, import_file
from config.log import configure_logging
from config.settings import load_settings

PROGRESS_SECONDS = 2.0


@main.group()
def data() -> None:
    """Export all data to a file and import it: backup, and change of the server."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers and drafts are cleaned up


@data.command("export")
@click.argument("data_dir", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def export_command(data_dir: Path, file: Path, force: bool) -> None:
    """Write the definitions, states and history of the embedded servers in DIR to FILE.

    A running service may continue meanwhile. FILE contains personal data; only its owner can read it.
    """
    settings = load_settings()
    configure_logging("warning", settings.log_format)
    began = time.monotonic()
    with acting_from(command_source()):
        report = asyncio.run(
            export_directory(
                settings,
                data_dir,
                file,
                replace=force,
                progress=_Progress("written"),
                say=lambda line: echo(line, err=True),
            )
        )
    _print_report(report, f"exported to {file}", time.monotonic() - began)


@data.command("import")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data directory of the embedded servers.")
@click.option("--create", is_flag=True, help="Create the directory of FLOW_DATA_DIR if there is none.")
@click.option("--replace-definitions", is_flag=True, help="Remove definitions that no state uses.")
def import_command(file: Path, data_dir: Path | None, create: bool, replace_definitions: bool) -> None:
    """Load FILE into the configured database, or into embedded servers.

    The database must have no states and no history, and no service may run on it. An interrupted import is
    completed by the same command. The directory of --data-dir is created if it does not exist.
    """
    settings = chosen_settings(data_dir)
    configure_logging("warning", settings.log_format)
    began = time.monotonic()
    with acting_from(command_source()):
        report = asyncio.run(
            import_file(
                settings,
                file,
                replace_definitions=replace_definitions,
                create=create or data_dir is not None,
                progress=_Progress("loaded"),
                say=lambda line: echo(line, err=True),
            )
        )
    print_store(settings)
    _print_report(report, f"imported from {file}", time.monotonic() - began)
    if report.already_there:
        echo(f"{report.already_there} of the documents existed already, as in the file")


class _Progress:
    """Prints the number of documents at intervals."""

    def __init__(self, done: str) -> None:
        self._done = done
        self._printed_at = time.monotonic()

    def __call__(self, collection: str, documents: int) -> None:
        if time.monotonic() - self._printed_at >= PROGRESS_SECONDS:
            self._printed_at = time.monotonic()
            echo(f"{collection}: {documents} documents {self._done}", err=True)


def _print_report(report: TransferReport, done: str, seconds: float) -> None:
    for collection, documents in report.documents.items():
        echo(f"{documents:>10} {collection}")
    echo(f"{done}: {report.bytes / 1e6:.1f} MB in {seconds:.1f} s; sha256 {report.sha256}")
