"""Commands of ``server-flow`` in processes that need not import it again.

Python's fork server imports the application once; each command is a process that is forked from it. A command
costs 0.1 s of CPU so, and 1 s as a new process.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

from app.cli import main
from tests.support.databases import is_of_tests

PRELOADED = (
    "tests.support.commands",
    "app.main",
    "app.cli.serve",
    "app.cli.data",
    "app.cli.diagram",
    "app.cli.exchange",
    "app.cli.flows",
    "app.cli.migration",
    "app.cli.operate",
    "app.cli.state",
    "app.cli.token",
    "app.cli.user",
    "app.process.embedded",
)

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(list(PRELOADED))


class EndedCommand(NamedTuple):
    """A command that has ended, and what it printed."""

    code: int
    stdout: str
    stderr: str


def run_command(
    arguments: Sequence[str], env: Mapping[str, str], cwd: Path, seconds: float = 60
) -> EndedCommand:
    """Run ``server-flow`` to its end; of the environment, ``env`` replaces all settings.

    Raises:
        TimeoutError: It has not ended within ``seconds``.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLOW_") or is_of_tests(k)}
    with NamedTemporaryFile() as stdout, NamedTemporaryFile() as stderr:
        outputs = (stdout.name, stderr.name)
        process = FORK_SERVER.Process(
            target=_be_the_command, args=(list(arguments), {**inherited, **env}, cwd, outputs)
        )
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"server-flow {' '.join(arguments)} has not ended within {seconds} s")
        return EndedCommand(process.exitcode, stdout.read().decode(), stderr.read().decode())


def _be_the_command(arguments: list[str], env: dict[str, str], cwd: Path, outputs: tuple[str, str]) -> None:
    for number, path in enumerate(outputs, start=1):
        file = os.open(path, os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["server-flow", *arguments]
    main()
