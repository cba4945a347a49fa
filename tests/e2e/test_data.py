"""``server-flow data export`` and ``data import``, as a person runs them."""

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import bson
import httpx
import pytest
from msgspec import structs
from pymongo import MongoClient

from app.contracts.errors import DataTransferError
from app.contracts.state import StateId
from app.flow.history_chain import seal
from app.main import Backend
from app.process.data_directory import read_jwt_secret
from app.process.database_server import SERVER_VARIABLE
from config.settings import Settings
from models.data_export import export_data
from models.data_file import FORMAT, FORMAT_VERSION, DataFileWriter, Header, created_file
from models.database import connect
from models.states.store import MongoStateStore
from tests.support.commands import run_command
from tests.support.constants import with_constants
from tests.support.http import blocking_http_client
from tests.support.long_form import form
from tests.support.samples import flow_dict, moved, peopled, record
from tests.support.serving import COMMAND, Process, Serving, external
from tests.support.shell import Shell
from tests.support.shorter_waits import in_short_form

ROUTE = "/api/flow/user-onboarding"
RECOVERY_SECONDS = form("recovery of a database server: seconds", short=1.0, long=7.0)
NOTICE = in_short_form(
    "time until a recovery is reported", {"app.process.server_process.RECOVERY_NOTICE_SECONDS": 0.3}
)
HEADER = Header(FORMAT, FORMAT_VERSION, "0.5.0", "2026-01-01T00:00:00.000Z")


class Embedded(Serving):
    """``serve`` on embedded servers in a folder below ``cwd``."""

    def __init__(self, cwd: Path, data_dir: str) -> None:
        super().__init__("--data-dir", data_dir, env={}, cwd=cwd)
        self.secret = read_jwt_secret(cwd / data_dir)

    def client(self, user: str, *scopes: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token(user, *scopes)}"}
        return blocking_http_client(self.url, headers=headers)


def run(cwd: Path, *arguments: str, code: int = 0, env: Mapping[str, str] | None = None) -> str:
    """Run a command with the settings of ``env`` alone; what it printed."""
    ended = run_command(arguments, env or {}, cwd, seconds=100)
    assert ended.code == code, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return f"{ended.stdout}{ended.stderr}"


def shown(printed: str) -> Any:
    """The JSON that a command printed before what it said on stderr."""
    return json.JSONDecoder().raw_decode(printed)[0]


def outcomes(served: Embedded, action: str) -> list[str]:
    """Return the outcomes of an action in the audit log."""
    with served.client("root", "flow:admin") as http:
        entries = http.get("/api/admin/audit", params={"action": action}).json()["items"]
    assert all(entry["actor"].startswith("cli:") for entry in entries)
    return [entry["outcome"] for entry in entries]


def test_a_data_directory_is_carried_over_while_its_service_runs(tmp_path: Path) -> None:
    first = Embedded(tmp_path, "first")
    try:
        with first.client("ada", "flow:admin") as http:
            http.post(f"{ROUTE}/start", json={"payload": {"iban": "DE02"}})
            http.post(f"{ROUTE}/transition/start", headers={"Idempotency-Key": "r-1"})
            http.post("/api/flow/sign-in/start?userId=bob")
            http.patch("/api/flows/user-onboarding", json={"title": "Changed"})
            state = http.get(f"{ROUTE}/state").json()
            checked = http.get(f"{ROUTE}/history/verify").json()
        printed = run(tmp_path, "data", "export", "first", "backup.flow")
        assert "2 flow_states" in printed
        assert "4 flow_definitions" in printed
        assert "exported to backup.flow" in printed
        file = tmp_path / "backup.flow"
        assert file.stat().st_mode & 0o777 == 0o600
        assert "exists already" in run(tmp_path, "data", "export", "first", "backup.flow", code=1)
        run(tmp_path, "data", "export", "first", "backup.flow", "--force")
        in_use = run(tmp_path, "data", "import", "backup.flow", "--data-dir", "first", code=1)
        assert "in use by another server-flow" in in_use
        full = _with_small_disk(tmp_path, first)
        assert full.startswith("server-flow: full.flow cannot be written: File too large")
        assert not list(tmp_path.glob("*full.flow*"))
        assert outcomes(first, "data.export") == ["started", "done"] * 2 + ["started", "failed"]
    finally:
        assert first.end() == 0

    printed = run(tmp_path, "data", "import", "backup.flow", "--data-dir", "second")
    assert "imported from backup.flow" in printed
    refused = run(tmp_path, "data", "import", "backup.flow", "--data-dir", "second", code=1)
    assert "has states or history already" in refused
    assert "Stored data needs wrapping keys that FLOW_ENCRYPTION_KEYS lacks: local:" in printed
    assert "Stored data needs wrapping keys" in run(tmp_path, "stats", "--data-dir", "second", code=1)
    shutil.copy(tmp_path / "first" / "encryption.json", tmp_path / "second")
    second = Embedded(tmp_path, "second")
    try:
        with second.client("ada", "flow:admin") as http:
            assert http.get(f"{ROUTE}/state").json() == state
            again = http.get(f"{ROUTE}/history/verify").json()
            assert (again["whole"], again["head"]) == (True, checked["head"])
            repeated = http.post(f"{ROUTE}/transition/start", headers={"Idempotency-Key": "r-1"}).json()
            assert repeated["revision"] == state["revision"]
            moved = http.post(f"{ROUTE}/transition/continue").json()
            assert moved["revision"] == state["revision"] + 1
            assert http.get(f"{ROUTE}/history/verify").json()["whole"]
            assert http.get("/api/flows/user-onboarding").json()["title"] == "Changed"
        old = {"Authorization": f"Bearer {first.token('ada')}"}
        assert httpx.get(f"{second.url}{ROUTE}/state", headers=old).status_code == 401, "a new secret"
        assert outcomes(second, "data.import") == ["started", "done", "started", "failed"]
    finally:
        assert second.end() == 0


@pytest.mark.long
def test_data_of_another_database_server_is_carried_over(tmp_path: Path) -> None:
    other = {SERVER_VARIABLE: str(Path(sys.executable).with_name("secantusd-py"))}
    which = ("--user", "ada", "--flow", "user-onboarding")
    value = '{"step": "verification", "payload": {"deep": [1, 1.5, null, "ż"]}}'
    old = {"FLOW_DATA_DIR": "old"}
    made = shown(run(tmp_path, "state", "set", *which, value, "--create", env={**other, **old}))
    refused = run(tmp_path, "data", "export", "old", "backup.flow", code=1)
    assert "was written by secantusd-py" in refused
    assert f"{SERVER_VARIABLE}=" in refused, "it says how to carry the data over"
    assert not (tmp_path / "backup.flow").exists()
    run(tmp_path, "data", "export", "old", "backup.flow", env=other)
    run(tmp_path, "data", "import", "backup.flow", "--data-dir", "new")
    shutil.copy(tmp_path / "old" / "encryption.json", tmp_path / "new")
    new = {"FLOW_DATA_DIR": "new"}
    assert shown(run(tmp_path, "state", "show", *which, env=new)) == made
    assert run(tmp_path, "state", "verify", *which, env=new).startswith("whole: 1 records; head ")


def test_a_database_server_that_recovers_is_waited_for_with_a_line(tmp_path: Path) -> None:
    which = ("--user", "ada", "--flow", "user-onboarding", '{"step": "verification"}')
    run(tmp_path, "state", "set", *which, "--create", env={"FLOW_DATA_DIR": "data"})
    server = os.environ.get(SERVER_VARIABLE) or Path(sys.executable).with_name("secantusd-rs")
    slow = tmp_path / Path(server).name
    slow.write_text(f'#!/bin/sh\nsleep {RECOVERY_SECONDS:g}\nexec {server} "$@"\n')
    slow.chmod(0o700)
    env = {SERVER_VARIABLE: str(slow), **with_constants(NOTICE)}
    said = run(tmp_path, "data", "export", "data", "backup.flow", env=env)
    assert "The embedded database server recovers from an unclean shutdown" in said
    assert "exported to backup.flow" in said


def _with_small_disk(cwd: Path, serving: Serving) -> str:
    """Export while no file may grow beyond 64 bytes; the servers belong to another process."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))

    assert serving.popen.poll() is None
    unwanted = ("FLOW_", "COVERAGE_")  # its measurement could not be written either
    ended = subprocess.run(
        [COMMAND, "data", "export", "first", "full.flow"],
        env={k: v for k, v in os.environ.items() if not k.startswith(unwanted)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        preexec_fn=limit,
    )
    assert ended.returncode == 1, ended.stdout
    return ended.stderr


def test_wrong_paths_are_reported_in_a_line(tmp_path: Path) -> None:
    said = run(tmp_path, "data", "export", "nowhere", "a.flow", code=1)
    assert said == "server-flow: There is no data directory of embedded servers at nowhere\n"
    assert list(tmp_path.iterdir()) == [], "nothing was made"
    (tmp_path / "data" / "mongodb").mkdir(parents=True)
    said = run(tmp_path, "data", "export", "data", "missing/a.flow", code=1)
    assert said == "server-flow: missing/a.flow cannot be written: No such file or directory\n"
    (tmp_path / "text").write_text("hello")
    said = run(tmp_path, "data", "import", "text", "--data-dir", "new", code=1)
    assert said == "server-flow: text is damaged, or is not a file of 'server-flow data export'\n"
    assert not (tmp_path / "new").exists(), "the file is read first"


def test_an_import_makes_a_data_directory_only_if_it_is_reported_to(
    settings: Settings, tmp_path: Path
) -> None:
    with created_file(tmp_path / "empty.flow", replace=False) as out:
        DataFileWriter(out, HEADER).finish()
    said = run(tmp_path, "data", "import", "empty.flow", code=1)
    assert said.startswith(f"server-flow: There is no database in {tmp_path / '.flow-data'}, ")
    assert [file.name for file in tmp_path.iterdir()] == ["empty.flow"]
    said = run(tmp_path, "data", "import", "empty.flow", "--data-dir", "x", env=external(settings), code=2)
    assert "--data-dir is for the embedded servers, but FLOW_MONGO_URL" in said
    said = run(tmp_path, "data", "import", "empty.flow", "--create")
    assert f"Store: {tmp_path / '.flow-data'} (embedded servers)" in said


@pytest.fixture
def importing() -> Iterator[list[Process]]:
    """Processes that are ended after the test."""
    started: list[Process] = []
    yield started
    for process in started:
        process.end(signal.SIGKILL)


def test_an_import_that_was_killed_is_completed_by_the_same_command(
    settings: Settings, tmp_path: Path, importing: list[Process]
) -> None:
    shell = Shell(settings, tmp_path)
    file = tmp_path / "large.flow"
    with created_file(file, replace=False) as out:
        writer = DataFileWriter(out, HEADER)
        writer.begin("flow_history")
        for n in range(30_000):
            writer.add(bson.encode({"_id": f"r{n:06}", "stateId": f"loop:u{n}", "epoch": "e", "revision": n}))
        writer.finish()
    with MongoClient[dict[str, Any]](shell.env["FLOW_MONGO_URL"]) as client:
        database = client[shell.env["FLOW_MONGO_DATABASE"]]
        process = Process("data", "import", "large.flow", env=shell.env, cwd=tmp_path)
        importing.append(process)
        while database.flow_history.find_one({}) is None:
            assert process.popen.poll() is None, process.output
        process.end(signal.SIGKILL)
        there = database.flow_history.count_documents({})
        assert 0 < there < 30_000
        said = shell("flows", "list", code=1)
        assert "An import into this database has not finished: repeat 'server-flow data import'" in said
        printed = shell("data", "import", "large.flow")
        assert "30000 flow_history" in printed
        assert "of the documents existed already, as in the file" in printed
        assert database.flow_history.count_documents({}) == 30_000
        assert "sign-in" in shell("flows", "list")


@pytest.mark.parametrize("erased", ["ada", "cleo"])
async def test_an_erasure_during_an_export_is_noticed(
    settings: Settings, tmp_path: Path, erased: str
) -> None:
    """Another process erases a user between the read of the states and that of the history: an owner, or a
    person whom a state of another user names."""
    parts = Backend(settings)
    async with parts.running() as service:
        flows = service.as_trusted()
        await service.create_flow(flow_dict(title="Loop"))
        for user in ("ada", "bob"):
            await flows.start_flow(user, "loop")
        states = MongoStateStore(parts.database, parts.codec)
        stored = await states.load(StateId("loop", "bob"))
        assert stored is not None
        after = moved(peopled(structs.replace(stored.state, transitions=()), "cleo"))
        await states.commit(stored.state.position, seal(record(after, kind="assigned"), stored.head, "salt"))
        await service.background.relay.drain(5)
        for state_id in (StateId("loop", "ada"), StateId("loop", "bob")):
            found = await states.load(state_id)
            assert found is not None
            await service.background.relay.deliver(found.deliverable)
    shell = Shell(settings, tmp_path)
    printed: list[str] = []

    def progress(collection: str, documents: int) -> None:
        if collection == "flow_states" and not printed:
            printed.append(shell("user", "erase", "--user", erased, "--yes"))

    assert settings.mongo_url is not None
    database = connect(settings.mongo_url.get_secret_value(), settings.mongo_database)
    try:
        with pytest.raises(DataTransferError, match="A user was erased while the export ran"):
            await export_data(database, DataFileWriter(io.BytesIO(), HEADER), progress)
        assert printed
        report = await export_data(database, DataFileWriter(io.BytesIO(), HEADER), lambda *_: None)
        assert report.documents["flow_states"] == 2
    finally:
        await database.close()
