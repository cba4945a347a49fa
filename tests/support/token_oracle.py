"""The reference algorithm of state tokens, run in Node."""

import json
import subprocess
from typing import Any

from tests.support.javascript import FOLDER, node

Json = dict[str, Any]


class Oracle:
    """The algorithm in Node."""

    def __init__(self) -> None:
        self._node = subprocess.Popen(
            node("state-token.mjs"),
            cwd=FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def ask(self, **request: Any) -> Json:
        assert self._node.stdin is not None
        assert self._node.stdout is not None
        self._node.stdin.write(json.dumps(request) + "\n")
        found: Json = json.loads(self._node.stdout.readline())
        return found

    def close(self) -> None:
        self._node.communicate(timeout=20)
        assert self._node.returncode == 0
