"""Commands of ``server-flow`` in processes that need not import it again.

Python's fork server imports the application once; each command is a process that is forked from it. A command
costs 0.1 s of CPU so, and 1 s as a new process.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.reduction import DupFd
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

from app.cli import main
from tests.support.constants import apply_constants
from tests.support.environment import is_of_tests

PRELOADED = (
    "tests.support.commands",
    "app.main",
    "app.cli.serve",
    "app.cli.data",
    "app.cli.deliveries",
    "app.cli.diagrams",
    "app.cli.exchange",
    "app.cli.flows",
    "app.cli.keys",
    "app.cli.migration",
    "app.cli.maintenance",
    "app.cli.services",
    "app.cli.state",
    "app.cli.token",
    "app.cli.user",
    "app.cli.webhook",
    "app.process.embedded",
    "app.cli.running",
    "tests.support.preloaded",
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
    with TemporaryFile() as stdout, TemporaryFile() as stderr:
        command = RunningCommand(arguments, env, cwd, stdout.fileno(), stderr.fileno())
        try:
            code = command.wait(seconds)
        except subprocess.TimeoutExpired:
            command.kill()
            command.wait(10)
            raise TimeoutError(
                f"server-flow {' '.join(arguments)} has not ended within {seconds} s"
            ) from None
        for output in (stdout, stderr):
            output.seek(0)
        return EndedCommand(code, stdout.read().decode(), stderr.read().decode())


class RunningCommand:
    """A process of ``server-flow``, with what is used of ``subprocess.Popen``.

    Args:
        arguments: What follows ``server-flow``.
        env: Replaces all settings in the environment.
        cwd: Its working directory.
        stdout: Descriptor of a file or pipe that the process gets; it may be closed then.
        stderr: The same for its errors.
    """

    def __init__(
        self, arguments: Sequence[str], env: Mapping[str, str], cwd: Path, stdout: int, stderr: int
    ) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLOW_") or is_of_tests(k)}
        self._arguments = list(arguments)
        self._process = FORK_SERVER.Process(
            target=_be_the_command,
            args=(self._arguments, {**inherited, **env}, cwd, Outputs(stdout, stderr)),
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float) -> int:
        """Wait until it has ended, and return its exit code. Raises subprocess.TimeoutExpired."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self._arguments, seconds)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # its end is reported a moment later
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)


class Outputs:
    """Descriptors for stdout and stderr that are handed to another process."""

    def __init__(self, *descriptors: int) -> None:
        self._descriptors = descriptors

    def __getstate__(self) -> list[Any]:
        return [DupFd(descriptor) for descriptor in self._descriptors]

    def __setstate__(self, handed: list[Any]) -> None:
        self._descriptors = tuple(each.detach() for each in handed)

    def use(self) -> None:
        """Make them those of this process."""
        for number, descriptor in enumerate(self._descriptors, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _be_the_command(arguments: list[str], env: dict[str, str], cwd: Path, outputs: Outputs) -> None:
    outputs.use()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["server-flow", *arguments]
    apply_constants()
    main()
