"""The README and the docs are true: their commands and snippets run, and their lists are complete."""

import ast
import asyncio
import json
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from app.contracts import errors
from app.contracts.errors import FlowError
from app.http.application import all_endpoints
from app.http.openapi import openapi
from config.settings import Settings
from tests.support.documentation import PAGES, README, ROOT, block, page
from tests.support.javascript import node
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


async def in_shell(script: str, env: dict[str, str], cwd: Path) -> str:
    return await run("bash", "-ec", script.replace("curl", "curl -sS"), env=env, cwd=cwd)


def answers_in(printed: str) -> list[Any]:
    return [json.loads(part) for part in re.split(r"(?<=\})(?=\{)", printed)]


def test_the_two_commands_are_one_line_each() -> None:
    install = "python3 -m venv .venv && .venv/bin/pip install -e"
    serve = block("README.md", "sh", "server-flow serve")
    test = block("README.md", "sh", ".venv/bin/pytest")
    assert serve.strip() == f"{install} '.[embedded]' && .venv/bin/server-flow serve"
    assert test.strip() == f"{install} '.[test]' && .venv/bin/pytest"


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 900


async def test_the_snippets_run(settings: Settings, node_packages: Path, tmp_path: Path) -> None:
    serving = Serving(env=external(settings), cwd=tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**external(settings), "URL": serving.url, "TOKEN": serving.token("ada"), "PATH": path}
    printed = await in_shell(block("README.md", "sh", "transition/start"), env, tmp_path)
    answers = answers_in(printed)
    assert [a["step"] for a in answers[:3]] == ["welcome", "profile-setup", "profile-setup"]
    assert [r["transition"] for r in answers[3]["items"]] == ["started", "start"]

    drawn = await in_shell("server-flow flows diagram user-onboarding --user ada", env, tmp_path)
    assert block("README.md", "mermaid", "profile-setup") == drawn

    env["ADMIN"] = serving.token("root", "flow:admin")
    printed = await in_shell(block("docs/guides/operate-states.md", "sh", "history/verify"), env, tmp_path)
    verified, recovered, found, batch, erased = answers_in(printed)
    assert (verified["whole"], recovered["action"]) == (True, "kept")
    assert [state["userId"] for state in found["items"]] == ["ada"]
    assert batch["results"][0]["state"]["status"] == "paused"
    assert erased["recordsErased"] == 2

    streamed = await in_shell(block("docs/guides/follow-over-http.md", "sh", "/stream"), env, tmp_path)
    assert "event: flow-state\r\ndata: null\r\n" in streamed, "erased above"

    live = await run(sys.executable, "-c", block("docs/guides/follow-in-python.md", "python", "FlowClient"),
                     env=env, cwd=tmp_path)  # fmt: skip
    assert live.split() == ["choice", "credentials"]
    script = tmp_path / "follow.mjs"
    script.write_text(
        block("docs/guides/follow-in-a-page.md", "js", "FlowClient")
        .replace("'./app/", f"'{ROOT}/app/")
        .replace("'socket.io-client'", f"'{node_packages}/socket.io-client/build/esm-debug/index.js'")
    )
    shown = await run(*node(str(script)), env=env, cwd=tmp_path)
    assert shown.split(" ", 1)[0] == "credentials"
    serving.end()

    alone = await run(sys.executable, "-c", block("docs/guides/embed-in-python.md", "python", "open_service"),
                      env=external(settings), cwd=ROOT)  # fmt: skip
    assert alone.strip() == "profile-setup ['continue', 'skip']"


async def test_the_tutorial_and_the_guides_to_definitions_run(settings: Settings, tmp_path: Path) -> None:
    serving = Serving(env=external(settings), cwd=tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {
        **external(settings),
        "URL": serving.url,
        "ADMIN": serving.token("root", "flow:admin"),
        "PATH": path,
    }
    tutorial = "docs/tutorial.md"
    (tmp_path / "expense.yaml").write_text(block(tutorial, "yaml", "flow: expense"))
    printed = await in_shell(block(tutorial, "sh", "flows validate"), env, tmp_path)
    assert printed.startswith("1 definition checked, no errors"), printed
    assert "expense v1 published" in printed
    env["BOB"] = serving.token("bob", "flow:service", roles=["approver"])
    submit = block(tutorial, "sh", "transition/submit")
    printed = await in_shell(f"{submit}\necho ADA=$ADA", env, tmp_path)
    printed, env["ADA"] = printed.strip().split("ADA=")
    started, submitted = answers_in(printed)
    assert (started["step"], submitted["step"], submitted["revision"]) == ("draft", "review", 1)
    assert "approve" not in [t["transition"] for t in submitted["transitions"]]
    approve = block(tutorial, "sh", "transition/approve")
    approved, history = answers_in(await in_shell(approve, env, tmp_path))
    assert approved["status"] == "completed"
    assert [record["transition"] for record in history["items"]] == ["started", "submit", "approve"]
    streamed = await in_shell(block(tutorial, "sh", "/stream"), env, tmp_path)
    assert "event: flow-state" in streamed

    change = block("docs/guides/change-a-definition.md", "sh", "versions/1/diff/2")
    printed = await in_shell(change, env, tmp_path)
    assert "flowchart TD" in printed
    changed, differ, rehearsed = answers_in(printed[printed.index('{"flow"') :])
    assert (changed["title"], differ["verdict"], rehearsed["dryRun"]) == ("Paid back", "safe", True)
    serving.end()


async def test_the_guide_to_many_states_and_people_runs(settings: Settings, tmp_path: Path) -> None:
    serving = Serving(env=external(settings), cwd=tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**external(settings), "URL": serving.url, "PATH": path}
    guide = "docs/guides/many-states-and-people.md"
    (tmp_path / "purchase.yaml").write_text(block(guide, "yaml", "flow: purchase"))
    checked = await in_shell("server-flow flows validate purchase.yaml", env, tmp_path)
    assert checked.startswith("1 definition checked, no errors")
    assert "warning" not in checked
    tokens = "\n".join(f"echo {name}=${name}" for name in ("ADA", "BOB", "EVE", "CARL"))
    printed = await in_shell(block(guide, "sh", "flows import") + tokens, env, tmp_path)
    env |= dict(line.split("=") for line in printed.splitlines() if line[:3] in ("ADA", "BOB", "EVE", "CAR"))

    printed = await in_shell(block(guide, "sh", "/states?status"), env, tmp_path)
    first, second, listed, named = answers_in(printed)
    assert [state["entityId"] for state in listed["items"]] == ["PR-17", first["entityId"]]
    assert (second["instances"], named["entityId"], len(first["entityId"])) == ("many", "PR-17", 16)
    (submitted,) = answers_in(await in_shell(block(guide, "sh", "transition/submit"), env, tmp_path))
    assert [(one["role"], one.get("userId")) for one in submitted["participants"]] == [
        ("buyer", None), ("manager", "bob"), ("manager", "eve")
    ]  # fmt: skip
    assert submitted["transitions"] == [], "the owner has no role of a participant"
    waiting, voted, moved = answers_in(await in_shell(block(guide, "sh", "as=manager"), env, tmp_path))
    assert [state["entityId"] for state in waiting["items"]] == ["PR-17"]
    assert (voted["step"], voted["votes"], moved["step"]) == (
        "review", [{"transition": "approve", "userId": "bob"}], "order"
    )  # fmt: skip
    await _check_refusals_by_people(serving, first["entityId"])
    claimed, ordered = answers_in(await in_shell(block(guide, "sh", "/claim?"), env, tmp_path))
    assert [claim["userId"] for claim in claimed["claims"]] == ["carl"]
    assert (ordered["status"], "claims" in ordered) == ("completed", False)
    serving.end()


async def _check_refusals_by_people(serving: Serving, own: str) -> None:
    """Check the refusals that the guide names; PR-17 waits for a buyer, the request ``own`` is a draft."""
    flow = "/api/flow/purchase"
    of_ada = {"userId": "ada", "entityId": "PR-17"}
    async with (
        serving.http("ada") as ada,
        serving.http("bob") as bob,
        serving.http("mallory", roles=["manager", "buyer"]) as mallory,
        serving.http("dora", groups=["purchasing"]) as dora,
    ):
        unnamed = (await ada.get(f"{flow}/state")).json()
        assert (unnamed["code"], unnamed["details"]["entityIds"]) == ("ENTITY_REQUIRED", ["PR-17", own])
        strange = [
            (await mallory.get(f"{flow}/state", params={**of_ada, "entityId": entity})).json()
            for entity in ("PR-17", "PR-0")
        ]
        assert [one["code"] for one in strange] == ["INSUFFICIENT_PERMISSIONS"] * 2
        assert strange[0]["detail"] == strange[1]["detail"]
        history = (await bob.get(f"{flow}/history", params=of_ada)).json()["items"]
        assert [(one["transition"], one["metadata"]["actor"]) for one in history] == [
            ("started", "ada"), ("submit", "ada"), ("approve", "bob"), ("approve", "eve")
        ]  # fmt: skip
        assert (await bob.get("/api/states", params={"userId": "ada"})).status_code == 403
        assert (await bob.get(f"{flow}/states", params={"userId": "ada"})).status_code == 403
        assert (await bob.post(f"{flow}/transition/place", params=of_ada)).status_code == 403

        people = [{"role": "manager", "userId": "bob"}, {"role": "manager", "userId": "fay"}]
        groups = [{"role": "buyer", "group": "purchasing"}]
        put = f"{flow}/participants"
        without_groups = await ada.put(put, params=of_ada, json={"participants": people})
        assert without_groups.json()["code"] == "INSUFFICIENT_PERMISSIONS"
        whole = await ada.put(put, params=of_ada, json={"participants": [*people, *groups]})
        assert whole.status_code == 200

        assert (await dora.post(f"{flow}/claim", params=of_ada)).status_code == 200
        async with serving.http("carl", groups=["purchasing"]) as carl:
            assert (await carl.post(f"{flow}/claim", params=of_ada)).json()["code"] == "CLAIMED"
            placed = await carl.post(f"{flow}/transition/place", params=of_ada)
            assert placed.json()["code"] == "CLAIMED"
        released = await bob.post(f"{flow}/release", params=of_ada)
        assert "claims" not in released.json(), "a manager may take over"

        mine = {"entityId": own}
        payload = {"payload": {"managers": ["ada", "bob"]}}
        assert (await ada.post(f"{flow}/transition/submit", params=mine, json=payload)).status_code == 200
        approved = await ada.post(f"{flow}/transition/approve", params=mine)
        assert approved.json()["code"] == "SEPARATION_OF_DUTIES"
        verified = (await ada.get(f"{flow}/history/verify", params=of_ada)).json()
        assert verified["whole"]


@pytest.mark.long
async def test_the_commands_of_the_guides_run(settings: Settings, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**external(settings), "PATH": path}
    (tmp_path / "expense.yaml").write_text(block("docs/tutorial.md", "yaml", "flow: expense"))
    await in_shell("server-flow flows import expense.yaml", env, tmp_path)
    await in_shell('server-flow state set \'{"step": "draft"}\' --user ada --flow expense', env, tmp_path)
    drawn = await in_shell(block("docs/guides/write-a-definition.md", "sh", "--format svg"), env, tmp_path)
    assert drawn.startswith("<svg")
    repair = block("docs/guides/repair.md", "sh", "state verify").replace("user-onboarding", "expense")
    assert '"action": "kept"' in await in_shell(repair, env, tmp_path)
    machine = await in_shell("server-flow flows export expense --format xstate", env, tmp_path)
    (tmp_path / "machine.json").write_text(machine)
    commands = block("docs/guides/import-from-xstate.md", "sh", "--dry-run").replace("sign-in", "expense")
    await in_shell(commands, env, tmp_path)


def test_every_setting_is_listed_and_every_one_listed_exists() -> None:
    named = set(re.findall(r"`(FLOW_[A-Z0-9_]+)[`=]", page("docs/reference/settings.md")))
    known = {f"FLOW_{name.upper()}" for name in Settings.model_fields}
    assert named == known | {"FLOW_SKIP_WEB_BUILD"}, "the last is read by the build backend"


def test_every_command_is_listed() -> None:
    commands = page("docs/reference/commands.md")
    for name, command in main.commands.items():
        assert f"server-flow {name}" in commands
        for inner in getattr(command, "commands", {}):
            assert f"`{inner}`" in commands or f"server-flow {name} {inner}" in commands


def test_every_error_is_listed_with_its_status() -> None:
    listed = set(re.findall(r"\| `([A-Z_]+)` \| (\d+) \| (yes|no) \|", page("docs/reference/errors.md")))
    known = {
        (each.code, str(each.status), "yes" if each.retryable else "no")
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, FlowError) and each is not errors.FaultyInputError
    }
    assert listed == known


def test_every_route_is_listed_and_every_one_listed_exists() -> None:
    listed = set(re.findall(r"`([A-Z]+ /(?:api|livez|readyz)[^` ]*)`", page("docs/reference/http.md")))
    document = openapi(all_endpoints(lambda: None), "1")  # type: ignore[arg-type]
    known = {f"{method.upper()} {path}" for path, of in document["paths"].items() for method in of}
    assert listed == known


def test_every_event_is_listed() -> None:
    source = (ROOT / "realtime" / "gateway" / "handlers.py").read_text()
    events = page("docs/reference/events.md")
    accepted = re.findall(r'self\._on\("([\w-]+)"', source)
    assert len(accepted) > 5
    assert [event for event in accepted if f"`{event}`" not in events] == []


@pytest.mark.parametrize("path", PAGES)
def test_links_lead_somewhere(path: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page(path)):
        assert ((ROOT / path).parent / target).exists(), target


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README):
        assert (ROOT / target).exists(), target


def test_every_module_is_in_the_architecture_and_every_one_listed_exists() -> None:
    listed = []
    for room, table in re.findall(
        r"^### `([\w/]+)`\n(.*?)(?=^### |\Z)", page("docs/architecture.md"), re.M | re.S
    ):
        listed += [f"{room}/{module}" for module in re.findall(r"^\| `([\w/]+\.py)` \|", table, re.M)]
    modules = {
        path.relative_to(ROOT).as_posix(): ast.get_docstring(ast.parse(path.read_text())) or ""
        for room in ("app", "models", "realtime", "config")
        for path in sorted((ROOT / room).rglob("*.py"))
        if path.name != "__init__.py"
    }
    assert len(modules) > 100
    missing = [f"add: {name} | {modules[name].splitlines()[0]} |" for name in modules if name not in listed]
    extra = [f"remove: {name}" for name in listed if name not in modules]
    assert not missing + extra, "\n".join(["", *missing, *extra])
    assert len(listed) == len(set(listed))


def test_every_dependency_has_a_reason() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*data["dependencies"], *(d for group in data["optional-dependencies"].values() for d in group)]
    names = {re.split(r"[\[<>=;~ ]", line)[0] for line in listed} - {"server-flow"}
    table = page("docs/reference/dependencies.md")
    assert [name for name in sorted(names) if name not in table] == []


def test_the_version_is_in_the_changelog() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.findall(r"^## (\S+)", page("docs/CHANGELOG.md"), re.MULTILINE)[0]
    assert newest == version


def test_every_decision_is_listed_and_says_its_status() -> None:
    decisions = [path for path in PAGES if re.search(r"decisions/\d", path)]
    index = page("docs/decisions/README.md")
    assert [path for path in decisions if f"({Path(path).name})" not in index] == []
    status = re.compile(r"\A# .+\n\nStatus: \w+, \d{4}-\d\d-\d\d")
    assert [path for path in decisions if not status.match(page(path))] == []
