"""``web``: the files that browsers get."""

import sys

import click

from app.cli.command import main, say


@main.group()
def web() -> None:
    """Browser files: flow-client and the pages."""


@web.command()
@click.option("--force", is_flag=True, help="Build even if the sources have not changed.")
def build(force: bool) -> None:
    """Build the browser files, as an installation does.

    Needs a source checkout and access to an npm registry. Node is downloaded if there is none.
    """
    from app.web.build import WebBuildError  # noqa: PLC0415 - other commands do not need it
    from app.web.build import build as build_bundle  # noqa: PLC0415
    from app.web.bundle import Bundle  # noqa: PLC0415

    bundle = Bundle()
    if not bundle.has_sources:
        if bundle.exists:
            say(f"Nothing to do: this installation came with its browser files in {bundle.files}.")
            return
        say(
            "server-flow: this wheel was built without browser files and has no sources to build them from; "
            "install a wheel that has them, or install from a source checkout",
            err=True,
        )
        sys.exit(1)
    if bundle.is_current and not force:
        say(f"Nothing to do: {bundle.files} was built from the present sources.")
        return
    say("Building the browser files ...")
    try:
        build_bundle(bundle, download=True)
    except WebBuildError as failure:
        say(failure.output.rstrip("\n"), err=True)
        say(f"server-flow: the browser files were not built: {failure}", err=True)
        sys.exit(1)
    say(f"Built {bundle.files}.")
