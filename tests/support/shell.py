"""Commands of ``server-flow``, run to their end."""

from pathlib import Path

from config.settings import Settings
from tests.support.commands import run_command
from tests.support.serving import external


class Shell:
    """Runs ``server-flow`` with the servers of ``settings`` and returns what it printed."""

    def __init__(self, settings: Settings, cwd: Path) -> None:
        self.env = external(settings)
        self.cwd = cwd

    def __call__(self, *arguments: str, code: int = 0) -> str:
        ended = run_command(arguments, self.env, self.cwd)
        assert ended.code == code, ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
        return ended.stdout + ended.stderr
