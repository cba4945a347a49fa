"""``web``: the files for browsers."""

import sys

import click

from app.cli.command import echo, main


@main.group()
def web() -> None:
    """Browser files: flow-client and the pages."""


@web.command()
@click.option("--force", is_flag=True, help="Build even if the sources have not changed.")
def build(force: bool) -> None:
    """Build the browser files, as an installation does.

    Needs a source checkout and access to an npm registry. Node is downloaded if it is not installed.
    """
    from app.web.build import WebBuildError  # noqa: PLC0415 - other commands do not need it
    from app.web.build import build as build_bundle  # noqa: PLC0415
    from app.web.bundle import Bundle  # noqa: PLC0415

    bundle = Bundle()
    if not bundle.has_sources:
        if bundle.exists:
            echo(f"Nothing to do: this installation came with its browser files in {bundle.files}.")
            return
        echo(
            "server-flow: this wheel was built without browser files and has no sources to build them from; "
            "install a wheel that has them, or install from a source checkout",
            err=True,
        )
        sys.exit(1)
    if bundle.is_current and not force:
        echo(f"Nothing to do: {bundle.files} was built from the present sources.")
        return
    echo("Building the browser files ...")
    try:
        build_bundle(bundle, download=True)
    except WebBuildError as failure:
        echo(failure.output.rstrip("\n"), err=True)
        echo(f"server-flow: the browser files were not built: {failure}", err=True)
        sys.exit(1)
    echo(f"Built {bundle.files}.")
