"""``serve`` and ``worker``."""

from pathlib import Path

import click

from app.cli.command import main


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The interface to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="The port; 0 for any free one.",
)
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1, 128), help="The number of processes."
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data directory of the embedded servers.")
def serve(host: str, port: int, workers: int, data_dir: Path | None) -> None:
    """Serve the API and Socket.IO.

    Without FLOW_MONGO_URL and FLOW_REDIS_URL, embedded servers for one machine are started.
    """
    from app.process.workers import import_lean  # noqa: PLC0415 - only these commands need them

    import_lean()
    from app.cli.running import run_server  # noqa: PLC0415

    run_server(host, port, workers, data_dir)


@main.command()
def worker() -> None:
    """Run only the background jobs: delivery for dead workers, expiry.

    Every serving process runs them, too; this command runs them in a process of their own.
    """
    from app.cli.running import run_background  # noqa: PLC0415

    run_background()
