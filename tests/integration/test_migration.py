"""Versions that follow each other, over HTTP, by command and on the real database."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from app.cli import main
from app.clock import SystemClock
from app.contracts.command import Origin, PauseCommand, StartCommand
from app.contracts.errors import FlowStateCorruptionError
from app.contracts.migration import MigrateCommand
from app.main import Parts
from app.services import FlowService
from config.settings import Settings
from models import commit, state_store
from models.database import connect
from models.state_store import MongoStateStore
from tests.support.databases import SentCommands
from tests.support.samples import flow_dict
from tests.support.serving import Follower, Serving
from tests.support.shell import Shell
from tests.support.versions import edited, renamed, without

ROOT = Origin(actor="root", client="tests")
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

    await follower.until(lambda f: f.updates() and f.updates()[-1]["kind"] == "migrated")
    told = follower.updates()[-1]
    assert (told["step"], told["fromStep"], told["version"], told["actor"]) == ("b2", "b", 2, "root")
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


async def walked(service: FlowService) -> None:
    """A flow whose version 2 lacks step b, and a state that stands there on version 1."""
    await service.create_flow(flow_dict())
    await service.start_flow("ada", "loop", StartCommand(payload={"x": 1}))
    await service.execute_transition("ada", "loop", "go")
    await service.update_flow("loop", members(without(flow_dict(), "b", "c")))
    await service.background.relay.drain(5)


async def test_a_state_that_was_forced_to_a_version_without_its_step(parts: Parts) -> None:
    """By hand, past the service: corruption that says what to do, recover, then the proper way."""
    service = parts.service
    await walked(service)
    states = parts.database.collection("flow_states")
    await states.update_one({"_id": "loop:ada"}, {"$set": {"version": 2}})
    for refused in (
        service.get_flow_state("ada", "loop"),
        service.execute_transition("ada", "loop", "done"),
    ):
        with pytest.raises(FlowStateCorruptionError) as damage:
            await refused
        assert "step b is not in version 2 of the flow" in damage.value.message
        assert "recover would rebuild it from its history at step b" in damage.value.message
        plan = damage.value.details["recover"]
        assert (plan["action"], plan["step"]) == ("rebuilt", "b")
    stuck = await service.migration.migrate("loop", MigrateCommand(2, 1, dry_run=True))
    told = next(step for step in stuck.steps if step.step == "b")
    assert (told.stuck.count, told.stuck.user_ids) == (1, ["ada"])
    assert "recover such states first" in told.advice
    failed = await service.migration.migrate("loop", MigrateCommand(2, 1), origin=ROOT)
    assert (failed.moved, failed.failed) == (0, 1)
    assert failed.failures[0].error.code == "FLOW_STATE_CORRUPTION"

    done = await service.administration.recover_flow("ada", "loop", origin=ROOT)
    assert done.state is not None
    assert (done.action, done.state.step, done.state.version) == ("rebuilt", "b", 1)
    assert done.state.payload == {"x": 1}
    report = await service.migration.migrate("loop", MigrateCommand(1, 2, {"b": "a"}), origin=ROOT)
    assert report.moved == 1
    after = await service.execute_transition("ada", "loop", "go")
    assert (after.step, after.version, after.payload) == ("c", 2, {"x": 1})
    kinds = [r.kind for r in await service.get_flow_history("ada", "loop")]
    assert kinds == ["started", "transitioned", "recovered", "migrated", "transitioned"]
    assert (await service.verify_flow_history("ada", "loop")).whole


async def test_a_step_that_was_taken_out_of_a_published_version(parts: Parts, settings: Settings) -> None:
    """What cannot be: a version never changes. Forced by hand, its states go back to where they fit."""
    await walked(parts.service)
    broken = without(flow_dict(), "b", "c")
    await parts.database.collection("flow_definitions").update_one(
        {"_id": "loop:1"}, {"$set": {"definition": json.dumps(broken)}}
    )
    restarted = Parts(settings)
    async with restarted.running() as service:
        with pytest.raises(FlowStateCorruptionError) as damage:
            await service.get_flow_state("ada", "loop")
        assert "step b is not in version 1" in damage.value.message
        assert "recover would rebuild it from its history at step a" in damage.value.message
        done = await service.administration.recover_flow("ada", "loop", origin=ROOT)
        assert done.state is not None
        assert (done.action, done.state.step) == ("rebuilt", "a")
        assert (await service.execute_transition("ada", "loop", "go")).step == "c"


async def test_what_cannot_be_read_fails_alone(parts: Parts) -> None:
    service = parts.service
    await service.create_flow(flow_dict())
    for user in ("ada", "bob", "eve"):
        await service.start_flow(user, "loop")
    await service.update_flow("loop", {"title": "New"})
    await service.background.relay.drain(5)
    states = parts.database.collection("flow_states")
    await states.update_one({"_id": "loop:bob"}, {"$set": {"payload": "{"}})
    report = await service.migration.migrate("loop", MigrateCommand(1, 2), origin=ROOT)
    assert (report.moved, report.failed, report.remaining) == (2, 1, 1)
    assert [(f.user_id, f.error.code) for f in report.failures] == [("bob", "FLOW_STATE_CORRUPTION")]
    await service.administration.recover_flow("bob", "loop", origin=ROOT)
    report = await service.migration.migrate("loop", MigrateCommand(1, 2), origin=ROOT)
    assert (report.moved, report.remaining) == (1, 0)


async def test_two_runs_at_a_time_move_each_state_once(parts: Parts) -> None:
    service = parts.service
    await service.create_flow(flow_dict())
    users = [f"u{n}" for n in range(60)]
    await asyncio.gather(*(service.start_flow(user, "loop") for user in users))
    await service.administration.pause_flow("u0", "loop", PauseCommand(reason="audit"))
    await service.update_flow("loop", members(edited(RENAMED, title="New")))
    runs = await asyncio.gather(*(service.migration.migrate("loop", MigrateCommand(1, 2)) for _ in range(3)))
    assert sum(run.moved for run in runs) == 60
    assert [run.failed for run in runs] == [0, 0, 0]
    for user in users:
        kinds = [r.kind for r in await service.get_flow_history(user, "loop")]
        assert kinds.count("migrated") == 1
    held = await service.get_flow_state("u0", "loop")
    assert held is not None
    assert (held.status, held.pause_reason, held.version) == ("paused", "audit", 2)


async def test_many_share_commands(parts: Parts, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """(Fewer at a time on a machine that is busy: so long is not waited for one answer.)"""
    for module in (commit, state_store):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 60)
    monkeypatch.setattr("app.services.migration.SECONDS", 60)
    service = parts.service
    await service.create_flow(flow_dict())
    await asyncio.gather(*(service.start_flow(f"u{n}", "loop") for n in range(300)))
    await service.background.relay.drain(60)
    await service.update_flow("loop", {"title": "New"})
    assert settings.mongo_url is not None
    sent = SentCommands()
    counted = connect(settings.mongo_url.get_secret_value(), settings.mongo_database, [sent])
    store = MongoStateStore(counted)
    service.migration._states = store
    service._changes._executor._states = store
    service._changes._executor._commits._states = store
    try:
        report = await service.migration.migrate("loop", MigrateCommand(1, 2), origin=ROOT)
        assert (report.moved, report.remaining) == (300, 0)
        assert len(sent.names) <= 300 // 5, "of 600 that they would be one by one"
        assert await store.running("loop", 1, (), 10, SystemClock().now()) == []
        await service.background.relay.drain(60)
    finally:
        await counted.close()


async def test_by_command(parts: Parts, settings: Settings, tmp_path: Path) -> None:
    service = parts.service
    await service.create_flow(flow_dict())
    for user, step in (("ada", "a"), ("bob", "b"), ("eve", "b")):
        await service.start_flow(user, "loop", StartCommand(step=step))
    await service.update_flow("loop", members(RENAMED))
    shell = Shell(settings, tmp_path)
    migrate = ("flows", "migrate", "loop", "--from", "1", "--to", "2")

    async def run(*arguments: str, code: int = 0) -> list[str]:
        return (await asyncio.to_thread(shell, *arguments, code=code)).splitlines()

    lines = await run("flows", "diff", "loop", "1", "2")
    assert lines[0] == "loop v1 -> v2: breaking"
    assert lines[1:4] == ["  + step b2", "  - step b", "  ~ a: go: step"]
    assert lines[4].startswith("breaking    /steps/b: is gone")
    rehearsed = await run(*migrate, "--dry-run")
    assert rehearsed[0] == "loop v1 -> v2, nothing was changed:"
    assert "  a -> a: 1 fit (ada)" in rehearsed
    assert "  b -> -: 2 need a mapping (bob, eve)" in rehearsed
    assert rehearsed[-1].startswith("maybe --map b=b2  (")
    (refused,) = await run(*migrate, code=1)
    assert refused.startswith("server-flow: --map b: states run there")
    (refused,) = await run(*migrate, "--leave", "b", "--leave", "zz", code=1)
    assert refused.startswith("server-flow: --leave zz: ")
    assert await run(*migrate, "--leave", "b") == ["1 states moved, 0 failed, 0 remain"]
    assert await run(*migrate, "--map", "b=b2") == ["2 states moved, 0 failed, 0 remain"]
    state = await service.get_flow_state("bob", "loop")
    assert state is not None
    assert (state.step, state.version) == ("b2", 2)
    last = (await service.get_flow_history("bob", "loop"))[-1]
    assert (last.kind, last.actor, last.client) == ("migrated", "command-line", "command-line")


async def test_a_command_that_leaves_some_behind_says_which_and_fails(
    parts: Parts, settings: Settings, tmp_path: Path
) -> None:
    service = parts.service
    await service.create_flow(flow_dict())
    for user in ("ada", "bob"):
        await service.start_flow(user, "loop")
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
        (["--map", "b"], "is not OLD=NEW"),
        (["--map", "b=a", "--map", "b=b2"], "is mapped twice"),
        (["--map", "b=a", "--leave", "b"], "is mapped, too"),
    ],
)
def test_a_mapping_that_is_none_is_refused_at_once(arguments: list[str], says: str) -> None:
    ended = CliRunner().invoke(main, ["flows", "migrate", "loop", "--from", "1", "--to", "2", *arguments])
    assert ended.exit_code == 2
    assert says in ended.output
