"""Commands of ``server-flow``, run to their end."""

import os
import subprocess
from pathlib import Path

from config.settings import Settings
from tests.support.serving import COMMAND, external


class Shell:
    """Runs ``server-flow`` with the servers of ``settings`` and returns what it printed."""

    def __init__(self, settings: Settings, cwd: Path) -> None:
        self.env = external(settings)
        self.cwd = cwd

    def __call__(self, *arguments: str, code: int = 0) -> str:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLOW_")}
        ended = subprocess.run(
            [COMMAND, *arguments],
            env={**inherited, **self.env},
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == code, ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
        return ended.stdout + ended.stderr
