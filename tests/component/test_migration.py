"""Migration of running states on the real database."""

import asyncio
import json
from typing import Any

import pytest

from app.contracts.commands import PauseCommand, StartCommand, trusted_origin
from app.contracts.errors import FlowStateCorruptionError
from app.contracts.migration import MigrateCommand
from app.kit.clock import SystemClock
from app.main import Backend
from app.services import FlowService
from config.settings import Settings
from models.database import connect
from models.states import commits as commit
from models.states import store as state_store
from models.states.store import MongoStateStore
from tests.support.databases import SentCommands
from tests.support.samples import flow_dict
from tests.support.services import service_on
from tests.support.versions import edited, renamed, without

ROOT = trusted_origin("root", client="tests")
RENAMED = renamed(flow_dict(), "b", "b2")


def members(flow: dict[str, Any]) -> dict[str, Any]:
    return {name: member for name, member in flow.items() if name != "flow"}


async def walked(service: FlowService) -> None:
    """A flow whose version 2 lacks step b, and a state that stands there on version 1."""
    flows = service.as_trusted()
    await service.create_flow(flow_dict())
    await flows.start_flow("ada", "loop", StartCommand(payload={"x": 1}))
    await flows.execute_transition("ada", "loop", "go")
    await service.update_flow("loop", members(without(flow_dict(), "b", "c")))
    await service.background.relay.drain(5)


@pytest.mark.expected_logs("state recovered")
async def test_a_state_that_was_forced_to_a_version_without_its_step(parts: Backend) -> None:
    """By hand, past the service: corruption that says what to do, recover, then the proper way."""
    service = parts.service
    flows = service.as_trusted()
    await walked(service)
    states = parts.database.collection("flow_states")
    await states.update_one({"_id": "loop:ada"}, {"$set": {"version": 2}})
    for refused in (
        flows.get_flow_state("ada", "loop"),
        flows.execute_transition("ada", "loop", "done"),
    ):
        with pytest.raises(FlowStateCorruptionError) as damage:
            await refused
        assert "step b is not in version 2 of the flow" in damage.value.message
        assert "recover would rebuild it from its history at step b" in damage.value.message
        plan = damage.value.details["recover"]
        assert (plan["action"], plan["step"]) == ("rebuilt", "b")
    stuck = await service.migration.migrate(
        "loop", MigrateCommand(2, 1, dry_run=True), origin=trusted_origin("python", "python")
    )
    step_report = next(step for step in stuck.steps if step.step == "b")
    assert (step_report.stuck.count, step_report.stuck.user_ids) == (1, ["ada"])
    assert "recover them first" in step_report.advice
    failed = await service.migration.migrate("loop", MigrateCommand(2, 1), origin=ROOT)
    assert (failed.moved, failed.failed) == (0, 1)
    assert failed.failures[0].error.code == "FLOW_STATE_CORRUPTION"

    done = await service.administration.recover_flow("ada", "loop", origin=ROOT)
    assert done.state is not None
    assert (done.action, done.state.step, done.state.version) == ("rebuilt", "b", 1)
    assert done.state.payload == {"x": 1}
    report = await service.migration.migrate("loop", MigrateCommand(1, 2, {"b": "a"}), origin=ROOT)
    assert report.moved == 1
    after = await flows.execute_transition("ada", "loop", "go")
    assert (after.step, after.version, after.payload) == ("c", 2, {"x": 1})
    kinds = [r.kind for r in await flows.get_flow_history("ada", "loop")]
    assert kinds == ["started", "transitioned", "recovered", "migrated", "transitioned"]
    assert (await flows.verify_flow_history("ada", "loop")).whole


@pytest.mark.expected_logs("state recovered")
async def test_a_step_that_was_taken_out_of_a_published_version(parts: Backend, settings: Settings) -> None:
    """States of a version that was changed by hand, which never happens, go back to where they fit."""
    await walked(parts.service)
    broken = without(flow_dict(), "b", "c")
    await parts.database.collection("flow_definitions").update_one(
        {"_id": "loop:1"}, {"$set": {"definition": json.dumps(broken)}}
    )
    restarted = Backend(settings)
    async with restarted.running() as service:
        flows = service.as_trusted()
        with pytest.raises(FlowStateCorruptionError) as damage:
            await flows.get_flow_state("ada", "loop")
        assert "step b is not in version 1" in damage.value.message
        assert "recover would rebuild it from its history at step a" in damage.value.message
        done = await service.administration.recover_flow("ada", "loop", origin=ROOT)
        assert done.state is not None
        assert (done.action, done.state.step) == ("rebuilt", "a")
        assert (await flows.execute_transition("ada", "loop", "go")).step == "c"


@pytest.mark.expected_logs("damaged document", "state recovered")
async def test_what_cannot_be_read_fails_alone(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    await service.create_flow(flow_dict())
    for user in ("ada", "bob", "eve"):
        await flows.start_flow(user, "loop")
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


async def test_two_runs_at_a_time_move_each_state_once(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    await service.create_flow(flow_dict())
    users = [f"u{n}" for n in range(60)]
    await asyncio.gather(*(flows.start_flow(user, "loop") for user in users))
    await service.administration.pause_flow(
        "u0", "loop", PauseCommand(reason="audit"), origin=trusted_origin("u0")
    )
    await service.update_flow("loop", members(edited(RENAMED, title="New")))
    runs = await asyncio.gather(
        *(
            service.migration.migrate("loop", MigrateCommand(1, 2), origin=trusted_origin("python", "python"))
            for _ in range(3)
        )
    )
    assert sum(run.moved for run in runs) == 60
    assert [run.failed for run in runs] == [0, 0, 0]
    for user in users:
        kinds = [r.kind for r in await flows.get_flow_history(user, "loop")]
        assert kinds.count("migrated") == 1
    held = await flows.get_flow_state("u0", "loop")
    assert held is not None
    assert (held.status, held.pause_reason, held.version) == ("paused", "audit", 2)


async def test_many_share_commands(
    parts: Backend, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (commit, state_store):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 60)
    # On a busy machine batches would be smaller: their size follows from the durations of commands.
    monkeypatch.setattr("models.batching.batcher.monotonic", lambda: 0.0)
    monkeypatch.setattr("app.services.administration.migration.MAX_SECONDS", 60)
    service = parts.service
    flows = service.as_trusted()
    await service.create_flow(flow_dict())
    await asyncio.gather(*(flows.start_flow(f"u{n}", "loop") for n in range(300)))
    await service.background.relay.drain(60)
    await service.update_flow("loop", {"title": "New"})
    assert settings.mongo_url is not None
    sent = SentCommands()
    counted = connect(settings.mongo_url.get_secret_value(), settings.mongo_database, [sent])
    try:
        report = await service_on(counted).migration.migrate("loop", MigrateCommand(1, 2), origin=ROOT)
        assert (report.moved, report.remaining) == (300, 0)
        for command in ("find", "update"):
            assert sent.names.count(command) <= 300 // 5, "of 300 that they would be one by one"
        store = MongoStateStore(parts.database, parts.codec)
        assert await store.list_running("loop", 1, (), 10, SystemClock().now()) == []
    finally:
        await counted.close()
