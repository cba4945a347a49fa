"""Imports of a starting process: the CPU of a start is that of its imports (``python -m bench start``)."""

import json
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import click
import pytest

from app.cli.command import COMMANDS, main
from app.kit.lazy import lazy_module, without_modules

ROOT = Path(__file__).parents[2]
SERVERS = {
    "FLOW_MONGO_URL": "mongodb://127.0.0.1:1",
    "FLOW_REDIS_URL": "redis://127.0.0.1:1",
    "FLOW_JWT_SECRET": "a secret for tests that is long enough",
}
FOR_A_TOKEN = {"jwt.api_jwt", "cryptography.x509"}
FOR_REMOTE_SOURCES = {"aiohttp.client", "app.sources.remote"}
NEVER_IN_A_WORKER = {"beanie", "models.documents", "yaml", "valkey", "rich", "pytest"}
APPLICATION = {
    "app.asgi",
    "app.http.application",
    "realtime.gateway.handlers",
    "socketio",
    "starlette.applications",
}


def imported(code: str, tmp_path: Path, **env: str) -> set[str]:
    """The modules that a new process has loaded after ``code``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLOW_")}
    listed = "import json, sys\nprint(json.dumps([n for n, m in sys.modules.items() if m]))"
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}\n{listed}"],
        env={**inherited, "PYTHONPATH": str(ROOT), **env},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout.splitlines()[-1]))


def test_the_command_line_loads_what_its_command_needs(tmp_path: Path) -> None:
    bare = imported("import app.cli", tmp_path)
    assert bare & {"pydantic", "structlog", "asyncio", "pymongo", "redis", "app.services", "uvicorn"} == set()
    token = imported("import app.cli.token", tmp_path)
    assert token & {"structlog", "pymongo", "redis", "app.services", "uvicorn", *FOR_A_TOKEN} == set()


def test_a_worker_loads_what_every_worker_needs(tmp_path: Path) -> None:
    code = "from app.process.workers import create_app\napplication = create_app()"
    found = imported(code, tmp_path, **SERVERS)
    assert found >= APPLICATION, "it is the application that was loaded"
    assert found & (FOR_A_TOKEN | FOR_REMOTE_SOURCES | NEVER_IN_A_WORKER) == set()


def test_a_process_that_only_watches_workers_does_not_load_the_application(tmp_path: Path) -> None:
    found = imported("import app.cli.running", tmp_path)
    assert "app.main" in found
    assert found & (APPLICATION | FOR_REMOTE_SOURCES | {"beanie"}) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_commands_has_the_help_of_the_commands(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.get_short_help_str(limit=200) == COMMANDS[name].short_help


def test_every_command_is_in_the_table() -> None:
    for name in COMMANDS:
        main.get_command(click.Context(main), name)
    assert set(main.commands) == set(COMMANDS)
    assert main.get_command(click.Context(main), "nonsense") is None


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of its own for each test."""
    name = f"slow_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "import time\nRUNS = globals().get('RUNS', 0) + 1\ntime.sleep(0.1)\nVALUE = 5\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_lazy_module_runs_once_at_its_first_use(slow: str) -> None:
    module = lazy_module(slow)
    assert "VALUE" not in vars(module)
    assert lazy_module(slow) is module is __import__(slow)
    assert "VALUE" not in vars(module), "an import alone does not run it"
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(module.VALUE)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [5] * 8
    assert module.RUNS == 1
    assert type(module) is types.ModuleType
    with pytest.raises(AttributeError, match="nonsense"):
        _ = module.nonsense


def test_a_lazy_module_that_fails_says_so_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_lazily.py").write_text("raise ValueError('broken')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = lazy_module("failing_lazily")
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            _ = module.VALUE
    with pytest.raises(ModuleNotFoundError):
        lazy_module("no_such_module_at_all")


def test_hidden_modules_come_back(slow: str) -> None:
    with without_modules(slow, "json"):
        with pytest.raises(ImportError):
            __import__(slow)
        assert __import__("json") is json, "what is loaded stays"
    assert __import__(slow).VALUE == 5
