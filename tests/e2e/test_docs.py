"""What README and docs say is true: their commands and snippets are run."""

import asyncio
import json
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

from app.cli import main
from config.settings import Settings
from tests.support.javascript import node
from tests.support.readme import README, ROOT, block
from tests.support.serving import Serving, external


async def run(*command: str, env: dict[str, str], cwd: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **env},
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()


def test_the_two_commands_are_one_line_each() -> None:
    install = "python3 -m venv .venv && .venv/bin/pip install -e"
    serve, test = block("sh", "server-flow serve"), block("sh", ".venv/bin/pytest")
    assert serve.strip() == f"{install} '.[embedded]' && .venv/bin/server-flow serve"
    assert test.strip() == f"{install} '.[test]' && .venv/bin/pytest"


async def test_the_snippets_run(settings: Settings, node_packages: Path, tmp_path: Path) -> None:
    serving = Serving(env=external(settings), cwd=tmp_path)
    env = {"URL": serving.url, "TOKEN": serving.token("ada")}
    printed = await run("bash", "-ec", block("sh", "transition/start").replace("curl", "curl -sS"),
                        env=env, cwd=tmp_path)  # fmt: skip
    answers = [json.loads(part) for part in re.split(r"(?<=\})(?=\{)", printed)]
    assert [a["step"] for a in answers[:3]] == ["welcome", "profile-setup", "profile-setup"]
    assert [r["transition"] for r in answers[3]["items"]] == ["started", "start"]

    admin = {**env, "ADMIN": serving.token("root", "flow:admin")}
    printed = await run("bash", "-ec", block("sh", "history/verify").replace("curl", "curl -sS"),
                        env=admin, cwd=tmp_path)  # fmt: skip
    verified, recovered, found, batch, erased = (
        json.loads(part) for part in re.split(r"(?<=\})(?=\{)", printed)
    )
    assert (verified["whole"], recovered["action"]) == (True, "kept")
    assert [state["userId"] for state in found["items"]] == ["ada"]
    assert batch["results"][0]["state"]["status"] == "paused"
    assert erased["recordsErased"] == 2

    streamed = await run("bash", "-ec", block("sh", "/stream").replace("curl", "curl -sS"),
                         env=env, cwd=tmp_path)  # fmt: skip
    assert "event: flow-state\r\ndata: null\r\n" in streamed, "erased above"

    (tmp_path / "expense.yaml").write_text(block("yaml", "flow: expense"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    printed = await run("bash", "-ec", block("sh", "flows validate").replace("curl", "curl -sS"),
                        env={**admin, **external(settings), "PATH": path}, cwd=tmp_path)  # fmt: skip
    assert printed.startswith("1 definition checked, no errors"), printed
    assert "expense v1 published" in printed
    assert "flowchart TD" in printed
    answers = re.split(r"(?<=\})(?=\{)", printed[printed.index('{"flow"') :])
    changed, differ, rehearsed = (json.loads(part) for part in answers)
    assert (changed["title"], differ["verdict"], rehearsed["dryRun"]) == ("Paid back", "safe", True)

    live = await run(sys.executable, "-c", block("python", "FlowClient"), env=env, cwd=tmp_path)
    assert live.split() == ["choice", "credentials"]
    script = tmp_path / "follow.mjs"
    script.write_text(
        block("js", "FlowClient")
        .replace("'./app/", f"'{ROOT}/app/")
        .replace("'socket.io-client'", f"'{node_packages}/socket.io-client/build/esm-debug/index.js'")
    )
    shown = await run(*node(str(script)), env=env, cwd=tmp_path)
    assert shown.split(" ", 1)[0] == "credentials"
    serving.end()

    alone = await run(sys.executable, "-c", block("python", "open_service"), env=external(settings), cwd=ROOT)
    assert alone.strip() == "profile-setup ['continue', 'skip']"


def test_every_setting_is_in_the_readme_and_every_one_there_exists() -> None:
    named = set(re.findall(r"`(FLOW_[A-Z_]+)`", README))
    known = {f"FLOW_{name.upper()}" for name in Settings.model_fields}
    elsewhere = {"FLOW_SKIP_WEB_BUILD"}  # read by the build backend
    assert {name for name in named if not name.startswith("FLOW_TEST_")} - elsewhere == known


def test_every_command_is_in_the_readme() -> None:
    for name, command in main.commands.items():
        assert f"server-flow {name}" in README
        for inner in getattr(command, "commands", {}):
            assert f"`{inner}`" in README or f"server-flow {name} {inner}" in README


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_room_of_the_code_is_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [f"app.{path.name}" for path in (ROOT / "app").iterdir() if (path / "__init__.py").exists()]
    assert all(room in text for room in [*rooms, "models", "realtime", "config"])


def test_every_dependency_has_a_reason() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*data["dependencies"], *(d for group in data["optional-dependencies"].values() for d in group)]
    names = {re.split(r"[\[<>=;~ ]", line)[0] for line in listed} - {"server-flow"}
    table = README[README.index("## What it uses") :]
    assert [name for name in sorted(names) if name not in table] == []
