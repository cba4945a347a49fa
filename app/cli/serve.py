"""``serve`` and ``worker``."""

from pathlib import Path

import click

from app.cli.command import main


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any free one."
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 128), help="Processes.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data of the embedded servers.")
def serve(host: str, port: int, workers: int, data_dir: Path | None) -> None:
    """Serve the API and Socket.IO.

    Without FLOW_MONGO_URL and FLOW_REDIS_URL, servers for one machine are started with it.
    """
    from app.process.workers import import_lean  # noqa: PLC0415 - all of these are for these commands alone

    import_lean()
    from app.cli.running import run_server  # noqa: PLC0415

    run_server(host, port, workers, data_dir)


@main.command()
def worker() -> None:
    """Run the background jobs alone: delivery for workers that died, expiry.

    Every serving process runs them too; this is for a process of its own.
    """
    from app.cli.running import run_background  # noqa: PLC0415

    run_background()
