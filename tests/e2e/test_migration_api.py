"""Comparison of versions and migration, over HTTP and by command."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from app.cli import main
from app.contracts.commands import StartCommand
from app.main import Backend
from config.settings import Settings
from tests.support.samples import flow_dict
from tests.support.serving import Follower, Serving
from tests.support.shell import Shell
from tests.support.versions import renamed

RENAMED = renamed(flow_dict(), "b", "b2")


@pytest.fixture
async def admin(serving: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with serving.http("root", "flow:admin") as client:
        yield client


def members(flow: dict[str, Any]) -> dict[str, Any]:
    return {name: member for name, member in flow.items() if name != "flow"}


async def published(admin: httpx.AsyncClient, slug: str, **later: Any) -> None:
    """The small flow under this slug, then a version with other members."""
    assert (await admin.post("/api/flows", json=flow_dict(slug))).status_code == 201
    answer = await admin.patch(f"/api/flows/{slug}", json=later)
    assert answer.headers["flow-version"] == "2", answer.text


async def test_the_difference_of_two_versions(serving: Serving, admin: httpx.AsyncClient, user: str) -> None:
    await published(admin, user, **members(RENAMED))
    async with serving.http(user) as http:
        found = (await http.get(f"/api/flows/{user}/versions/1/diff/2")).json()
        assert (found["flow"], found["from"], found["to"], found["verdict"]) == (user, 1, 2, "breaking")
        assert found["steps"] == {"added": ["b2"], "removed": ["b"], "changed": []}
        assert [(c["step"], c["transition"]) for c in found["transitions"]["changed"]] == [("a", "go")]
        assert found["transitions"]["changed"][0]["members"] == [
            {"member": "step", "before": "b", "after": "b2"}
        ]
        assert {r["pointer"]: r["effect"] for r in found["reasons"]} == {
            "/steps/b": "breaking",
            "/steps/a/transitions/go/step": "compatible",
            "/steps/b2": "safe",
        }
        same = (await http.get(f"/api/flows/{user}/versions/2/diff/2")).json()
        assert (same["verdict"], same["reasons"]) == ("safe", [])
        missing = await http.get(f"/api/flows/{user}/versions/1/diff/3")
        assert (missing.status_code, missing.json()["details"]["version"]) == (404, 3)
        odd = await http.get(f"/api/flows/{user}/versions/x/diff/-1")
        assert odd.status_code == 422
        assert [e["pointer"] for e in odd.json()["details"]["errors"]] == ["/earlier", "/later"]


async def test_who_may_not_see_a_flow_sees_no_difference(
    serving: Serving, admin: httpx.AsyncClient, user: str
) -> None:
    await published(admin, user, roles=["clerk"])
    async with serving.http(user) as http:
        assert (await http.get(f"/api/flows/{user}/versions/1/diff/2")).status_code == 403
    assert (await admin.get(f"/api/flows/{user}/versions/1/diff/2")).status_code == 200


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["", ""]),
        ({"from": 0, "to": "2", "limit": 10_001}, ["/from", "/limit", "/to"]),
        ({"from": 1, "to": 2, "mapping": {"a": 1}, "dryrun": True}, ["", "/mapping/a"]),
        ({"from": 1, "to": 1}, ["/to"]),
        ({"from": 1, "to": 2, "mapping": {"x": "a", "a": "b"}}, ["/mapping/x", "/mapping/a"]),
    ],
)
async def test_what_is_no_migration_is_refused(
    admin: httpx.AsyncClient, user: str, body: Any, pointers: list[str]
) -> None:
    await published(admin, user, **members(RENAMED))
    answer = await admin.post(f"/api/flows/{user}/migrate", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "INVALID_REQUEST"
    found = [e["pointer"] for e in answer.json()["details"]["errors"]]
    assert sorted(found) == sorted(pointers)


@pytest.mark.parametrize("header", [{"Idempotency-Key": "k"}, {"If-Match": '"1"'}])
async def test_headers_of_one_change_are_refused(
    admin: httpx.AsyncClient, user: str, header: dict[str, str]
) -> None:
    await published(admin, user, **members(RENAMED))
    answer = await admin.post(f"/api/flows/{user}/migrate", json={"from": 1, "to": 2}, headers=header)
    assert answer.status_code == 422
    assert answer.json()["details"]["errors"][0]["pointer"] == f"/{next(iter(header))}"


async def test_rehearsed_then_moved_over_http(serving: Serving, admin: httpx.AsyncClient, user: str) -> None:
    assert (await admin.post("/api/flows", json=flow_dict(user))).status_code == 201
    steps = {f"{user}-{n:02}": "ab"[n % 2] for n in range(24)}
    starts = [
        {"op": "reset", "userId": one, "flowId": user, "body": {"step": step}} for one, step in steps.items()
    ]
    assert (await admin.post("/api/admin/states/batch", json={"operations": starts})).json()["failed"] == 0
    follower = await Follower().connect(serving.url, serving.token(f"{user}-01"))
    await admin.patch(f"/api/flows/{user}", json=members(RENAMED))
    route = f"/api/flows/{user}/migrate"

    dry = (await admin.post(route, json={"from": 1, "to": 2, "dryRun": True})).json()
    by_step = {step["step"]: step for step in dry["steps"]}
    assert by_step["a"]["fit"]["count"] == by_step["b"]["needMapping"]["count"] == 12
    assert by_step["b"]["needMapping"]["userIds"] == [f"{user}-{n:02}" for n in range(1, 21, 2)]
    assert by_step["c"] == {
        "step": "c",
        "to": "c",
        **{fate: {"count": 0, "userIds": []} for fate in ("fit", "needMapping", "stuck", "left")},
    }
    (proposal,) = dry["proposals"]
    assert (proposal["step"], proposal["to"]) == ("b", "b2")

    refused = await admin.post(route, json={"from": 1, "to": 2})
    assert [e["pointer"] for e in refused.json()["details"]["errors"]] == ["/mapping/b"]
    body = {"from": 1, "to": 2, "mapping": {"b": "b2"}, "limit": 20}
    rehearsed = (await admin.post(route, json={**body, "dryRun": True})).json()
    answers = [(await admin.post(route, json=body)).json() for _ in range(3)]
    assert [(a["moved"], a["remaining"], a["dryRun"]) for a in answers] == [
        (20, 4, False),
        (4, 0, False),
        (0, 0, False),
    ]
    assert answers[0]["steps"] == rehearsed["steps"]
    assert sum(step["fit"]["count"] for step in rehearsed["steps"]) == 24

    await follower.until(lambda f: bool(f.updates()) and f.updates()[-1]["kind"] == "migrated")
    reported = follower.updates()[-1]
    assert (reported["step"], reported["fromStep"], reported["version"], reported["actor"]) == (
        "b2",
        "b",
        2,
        "root",
    )
    await follower.close()
    for one, step in steps.items():
        params = {"userId": one}
        state = (await admin.get(f"/api/flow/{user}/state", params=params)).json()
        assert (state["step"], state["version"]) == ({"a": "a", "b": "b2"}[step], 2)
        records = (await admin.get(f"/api/flow/{user}/history", params=params)).json()["items"]
        assert [r["metadata"]["kind"] for r in records] == ["started", "migrated"]
        assert records[1]["payload"]["fromStep"] == step
    verified = await admin.get(f"/api/flow/{user}/history/verify", params={"userId": f"{user}-01"})
    assert verified.json()["whole"] is True


async def test_by_command(parts: Backend, settings: Settings, tmp_path: Path) -> None:
    service = parts.service
    flows = service.as_trusted()
    await service.create_flow(flow_dict())
    for user, step in (("ada", "a"), ("bob", "b"), ("eve", "b")):
        await flows.start_flow(user, "loop", StartCommand(step=step))
    await service.update_flow("loop", members(RENAMED))
    shell = Shell(settings, tmp_path)
    migrate = ("flows", "migrate", "loop", "--from", "1", "--to", "2")

    async def run(*arguments: str, code: int = 0) -> list[str]:
        return (await asyncio.to_thread(shell, *arguments, code=code)).splitlines()

    lines = await run("flows", "diff", "loop", "1", "2")
    assert lines[0] == "loop v1 -> v2: breaking"
    assert lines[1:4] == ["  + step b2", "  - step b", "  ~ a: go: step"]
    assert lines[4].startswith("breaking    /steps/b: The step was removed")
    rehearsed = await run(*migrate, "--dry-run")
    assert rehearsed[0] == "loop v1 -> v2, nothing was changed:"
    assert "  a -> a: 1 fit (ada)" in rehearsed
    assert "  b -> -: 2 need a mapping (bob, eve)" in rehearsed
    assert rehearsed[-1].startswith("maybe --map b=b2  (")
    (refused,) = await run(*migrate, code=1)
    assert refused.startswith("server-flow: --map b: States run there")
    (refused,) = await run(*migrate, "--leave", "b", "--leave", "zz", code=1)
    assert refused.startswith("server-flow: --leave zz: ")
    assert await run(*migrate, "--leave", "b") == ["1 states moved, 0 failed, 0 remain"]
    assert await run(*migrate, "--map", "b=b2") == ["2 states moved, 0 failed, 0 remain"]
    state = await flows.get_flow_state("bob", "loop")
    assert state is not None
    assert (state.step, state.version) == ("b2", 2)
    last = (await flows.get_flow_history("bob", "loop"))[-1]
    assert (last.kind, last.actor, last.client) == ("migrated", "command-line", "command-line")


async def test_a_command_that_leaves_states_behind_lists_them_and_fails(
    parts: Backend, settings: Settings, tmp_path: Path
) -> None:
    service = parts.service
    flows = service.as_trusted()
    await service.create_flow(flow_dict())
    for user in ("ada", "bob"):
        await flows.start_flow(user, "loop")
    await service.update_flow("loop", {"title": "New"})
    await service.background.relay.drain(5)
    states = parts.database.collection("flow_states")
    await states.update_one({"_id": "loop:bob"}, {"$set": {"step": "nowhere"}})
    shell = Shell(settings, tmp_path)
    arguments = ("flows", "migrate", "loop", "--from", "1", "--to", "2")
    lines = (await asyncio.to_thread(shell, *arguments, code=1)).splitlines()
    assert lines[:2] == ["1 moved, 1 to go", "1 states moved, 1 failed, 1 remain"]
    assert lines[2].startswith("  bob: FLOW_STATE_CORRUPTION: ")
    assert "recover would rebuild it" in lines[2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--map", "b"], "must be OLD=NEW"),
        (["--map", "b=a", "--map", "b=b2"], "is mapped twice"),
        (["--map", "b=a", "--leave", "b"], "is mapped, too"),
    ],
)
def test_a_mapping_that_is_none_is_refused_at_once(arguments: list[str], says: str) -> None:
    ended = CliRunner().invoke(main, ["flows", "migrate", "loop", "--from", "1", "--to", "2", *arguments])
    assert ended.exit_code == 2
    assert says in ended.output
