"""Starting, stopping and being killed, with the embedded servers."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import psutil
import pymongo
import pytest

from tests.support.commands import run_command
from tests.support.http import blocking_http_client
from tests.support.long_form import form
from tests.support.samples import flow_dict
from tests.support.serving import Process, Serving

ROUTE = "/api/flow/user-onboarding"


class Embedded(Serving):
    """``serve`` on embedded servers in ``cwd``/data."""

    def __init__(self, cwd: Path, *arguments: str, terminal: bool = False) -> None:
        super().__init__("--data-dir", "data", *arguments, env={}, cwd=cwd, terminal=terminal)
        self.secret = json.loads((cwd / "data" / "secrets.json").read_text())["jwt"]

    def server(self, name: str) -> psutil.Process | None:
        """The process of an embedded server, unless it is dead."""
        return next((p for p in self.family() if name in p.name() and p.is_running()), None)


def test_a_dead_embedded_server_is_started_again_and_only_repeated_death_ends_all(tmp_path: Path) -> None:
    serving = Embedded(tmp_path)
    headers = {"Authorization": f"Bearer {serving.token('ada')}"}
    first = serving.server("valkey")
    assert first is not None
    first.kill()
    serving.wait_for("embedded server died.*it was killed")
    serving.wait_for("embedded server restarted")
    serving.wait_for("redis connection restored")
    with blocking_http_client(serving.url, headers=headers) as http:
        assert http.post(f"{ROUTE}/start").status_code == 201
        assert http.get("/readyz").status_code == 200
    killed = {first.pid}
    deadline = time.monotonic() + 60
    family = serving.family()
    while serving.popen.poll() is None:
        assert time.monotonic() < deadline
        with contextlib.suppress(psutil.NoSuchProcess):
            again = serving.server("valkey")
            if again is not None and again.pid not in killed:
                killed.add(again.pid)
                family.append(again)
                again.kill()
        time.sleep(0.02)
    assert serving.end() == 1
    given_up = [line for line in serving.lines if line.endswith("; stopping")]
    assert "The embedded redis server " in given_up[0]
    assert "it was killed" in given_up[0]
    assert "(5 times in a row)" in given_up[0]
    assert len(killed) == 5
    assert _gone(family, 5) == []
    serving.end()


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """Processes that are ended after the test."""
    started: list[Process] = []
    yield started
    for process in started:
        process.end(signal.SIGKILL)


def _gone(family: list[psutil.Process], seconds: float) -> list[str]:
    """Return the commands of the processes that still run after ``seconds``."""
    _, alive = psutil.wait_procs(family, timeout=seconds)
    return [" ".join(p.cmdline()) for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_ctrl_c_leaves_nothing_and_the_data_stays(tmp_path: Path, processes: list[Process]) -> None:
    workers = "2"
    first = Embedded(tmp_path, "--workers", workers)
    processes.append(first)
    headers = {"Authorization": f"Bearer {first.token('ada', 'flow:admin')}"}
    with blocking_http_client(first.url, headers=headers) as http:
        http.post(f"{ROUTE}/start", json={"payload": {"a": 1}})
        http.post(f"{ROUTE}/transition/start")
        http.patch("/api/flows/user-onboarding", json={"title": "Changed"})
        state = http.get(f"{ROUTE}/state").json()
        history = http.get(f"{ROUTE}/history").json()
        flow = http.get("/api/flows/user-onboarding").json()
    family = first.family()
    assert len(family) >= 3
    assert first.end(signal.SIGINT) == 0
    assert _gone(family, 5) == []

    second = Embedded(tmp_path, "--workers", workers)
    processes.append(second)
    with blocking_http_client(second.url, headers=headers) as http:
        assert http.get(f"{ROUTE}/state").json() == state
        again = http.get(f"{ROUTE}/history").json()
        for record in (*history["items"], *again["items"]):  # known a moment after the record
            record["metadata"].pop("durationMs", None)
        assert again["items"][:2] == history["items"][:2]
        assert http.get("/api/flows/user-onboarding").json() == flow
        assert http.post(f"{ROUTE}/transition/continue").json()["revision"] == 2
    assert "definitions published" not in second.output
    assert second.end(signal.SIGTERM) == 0


def test_workers_follow_the_folder_of_the_embedded_default(tmp_path: Path, processes: list[Process]) -> None:
    folder = tmp_path / "config" / "flows"
    folder.mkdir(parents=True)
    (folder / "loop.json").write_text(json.dumps(flow_dict()))
    serving = Embedded(tmp_path, "--workers", "2")
    processes.append(serving)
    (folder / "other.json").write_text(json.dumps(flow_dict("other")))
    serving.wait_for("published.*other")
    headers = {"Authorization": f"Bearer {serving.token('ada')}"}
    with blocking_http_client(serving.url, headers=headers) as http:
        assert [flow["flow"] for flow in http.get("/api/flows").json()["items"]] == ["loop", "other"]


@pytest.mark.parametrize(
    "workers", form("impatient Ctrl-C: numbers of workers", short=("2",), long=("1", "2"))
)
def test_an_impatient_ctrl_c_ends_it_without_a_stack_trace(
    tmp_path: Path, processes: list[Process], workers: str
) -> None:
    serving = Embedded(tmp_path, "--workers", workers)
    processes.append(serving)
    group = os.getpgid(serving.popen.pid)
    family = [process for process in serving.family() if os.getpgid(process.pid) == group]
    shown = len(serving.lines)
    for _ in range(4):  # as a terminal sends it: to every process of the group
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            serving.popen.wait(0.1)
    assert serving.end(signal.SIGINT) == 0
    assert "".join(serving.lines[shown:]).strip() == ""


@pytest.mark.parametrize("workers", form("kill -9: numbers of workers", short=("2",), long=("1", "2")))
def test_kill_9_leaves_nothing_and_loses_nothing(
    tmp_path: Path, processes: list[Process], workers: str
) -> None:
    first = Embedded(tmp_path, "--workers", workers)
    processes.append(first)
    headers = {"Authorization": f"Bearer {first.token('ada')}"}
    with blocking_http_client(first.url, headers=headers) as http:
        http.post(f"{ROUTE}/start")
        for transition in ("start", "continue", "save", "complete"):
            acknowledged = http.post(f"{ROUTE}/transition/{transition}").json()
        family = first.family()
        first.end(signal.SIGKILL)
    second = Embedded(tmp_path, "--workers", workers)  # waits for the servers of the killed one
    processes.append(second)
    assert _gone(family, 15) == []
    with blocking_http_client(second.url, headers=headers) as http:
        assert http.get(f"{ROUTE}/state").json() == acknowledged
        history = http.get(f"{ROUTE}/history").json()["items"]
    assert [r["metadata"]["revision"] for r in history] == [0, 1, 2, 3, 4]
    assert second.end() == 0


def _refused(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    """The one line with which ``server-flow`` ends."""
    began = time.monotonic()
    ended = run_command(arguments, env or {}, cwd)
    assert ended.code != 0
    assert time.monotonic() - began < 20
    lines = [line for line in (ended.stderr + ended.stdout).splitlines() if line]
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    return lines[0]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """One that the following tests share."""
    folder = tmp_path_factory.mktemp('a "folder"')
    (folder / "app.py").write_text("raise ImportError('nothing of the working directory is imported')")
    shared = Embedded(folder)
    yield shared
    assert shared.end() == 0


def test_on_a_terminal_the_printed_lines_carry_tokens_that_work(tmp_path: Path) -> None:
    folder = tmp_path / 'a "folder"'
    folder.mkdir()
    serving = Embedded(folder, terminal=True)
    address, token = serving.wait_for(r"Open (\S+)/#token=(\S+)").groups()
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{address}/api/flows", headers=headers).status_code == 200
    line = serving.wait_for(r"  (curl .*)")[1]
    answer = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=20, check=True)
    assert json.loads(answer.stdout)["step"] == "welcome"
    assert str(serving.cwd / "data") in serving.output
    again = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=20, check=True)
    assert json.loads(again.stdout) == json.loads(answer.stdout)
    assert serving.end() == 0


def test_secrets_are_private_and_servers_want_a_password(serving: Embedded) -> None:
    data = serving.cwd / "data"
    assert stat.S_IMODE((data / "secrets.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((data / "running.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((data / "redis" / "valkey.conf").stat().st_mode) == 0o600
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    stored = json.loads((data / "secrets.json").read_text())
    ports = set()
    for process in serving.family():
        command = " ".join(process.cmdline())
        assert not any(secret in command for secret in (stored["jwt"], stored["mongo"], stored["redis"]))
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip == "127.0.0.1"
                ports.add(connection.laddr.port)
    redis_port = int((data / "redis" / "valkey.conf").read_text().split("port ")[1].split()[0])
    assert redis_port in ports
    with socket.create_connection(("127.0.0.1", redis_port), 5) as raw:
        raw.sendall(b"PING\r\n")
        assert raw.recv(100).startswith(b"-NOAUTH")
    (mongo_port,) = ports - {redis_port, int(serving.url.rsplit(":", 1)[1])}
    anonymous: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
        f"mongodb://127.0.0.1:{mongo_port}/", serverSelectionTimeoutMS=5000
    )
    with anonymous, pytest.raises(pymongo.errors.OperationFailure):
        anonymous["server_flow"]["flow_states"].find_one({})


def test_a_directory_in_use_is_one_clear_line(serving: Embedded) -> None:
    line = _refused("serve", "--port", "0", "--data-dir", "data", cwd=serving.cwd)
    assert "in use" in line
    assert "--data-dir" in line


def _command(serving: Embedded, *arguments: str) -> str:
    ended = run_command(arguments, {"FLOW_DATA_DIR": "data"}, serving.cwd)
    assert ended.code == 0, ended.stderr
    return ended.stdout


def test_no_token_comes_into_an_output_that_may_be_retained(serving: Embedded) -> None:
    address = serving.url
    token = _command(serving, "token", "--user", "demo").strip()
    claims = jwt.decode(token, serving.secret, algorithms=["HS256"])
    assert claims["sub"] == "demo"
    assert "server-flow" in httpx.get(address).text
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{address}/api/flows", headers=headers).status_code == 200
    assert httpx.get(f"{address}/api/admin/statistics", headers=headers).status_code == 403
    assert all("eyJ" not in line and "token=" not in line for line in serving.lines)


def test_tokens_of_the_command_line_work(serving: Embedded) -> None:
    line = serving.wait_for(r"Tokens: (.*)")[1]
    printed = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=20, check=True)
    by_hand = _command(serving, "token", "--user", "eve", "--scope", "flow:admin", "--ttl", "5m")
    for token, status in ((printed.stdout, 403), (by_hand, 200)):
        headers = {"Authorization": f"Bearer {token.strip()}"}
        assert httpx.get(f"{serving.url}/api/admin/statistics", headers=headers).status_code == status


def test_other_commands_join_the_servers_that_run(serving: Embedded) -> None:
    assert "user-onboarding\tv1" in _command(serving, "flows", "list")
    which = ("--user", "joined", "--flow", "user-onboarding")
    _command(serving, "state", "set", *which, '{"step": "verification"}')
    headers = {"Authorization": f"Bearer {serving.token('joined')}"}
    state = httpx.get(f"{serving.url}{ROUTE}/state", headers=headers).json()
    assert state["step"] == "verification"
    assert json.loads(_command(serving, "state", "show", *which)) == state
    assert _command(serving, "check-config").splitlines()[-2:] == ["MongoDB: answers", "Redis: answers"]


def test_a_command_that_finds_no_database_makes_none(serving: Embedded, tmp_path: Path) -> None:
    which = ("--user", "stray", "--flow", "loop")
    (tmp_path / "loop.json").write_text(json.dumps(flow_dict()))
    for arguments in (
        ("flows", "import", "loop.json"),
        ("flows", "list"),
        ("user", "erase", "--user", "stray", "--yes"),
        ("state", "set", *which, '{"step": "a"}'),
        ("state", "history", *which),
        ("purge",),
    ):
        line = _refused(*arguments, cwd=tmp_path)
        assert line.startswith(f"server-flow: There is no database in {tmp_path / '.flow-data'}, ")
        assert all(way in line for way in ("--data-dir", "FLOW_DATA_DIR", "FLOW_MONGO_URL", "--create"))
    assert [file.name for file in tmp_path.iterdir()] == ["loop.json"], "nothing was made"

    there = ("--data-dir", str(serving.cwd / "data"))
    ended = run_command(("flows", "import", "loop.json", *there), {}, tmp_path)
    assert ended.stdout == "loop.json: loop v1 published\n"
    assert ended.stderr == f"Store: {serving.cwd / 'data'} (embedded servers)\n"
    headers = {"Authorization": f"Bearer {serving.token('stray')}"}
    assert httpx.post(f"{serving.url}/api/flow/loop/start", headers=headers).status_code == 201


def test_a_busy_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        line = _refused("serve", "--port", str(port), "--data-dir", "data", cwd=tmp_path)
    assert f"Port {port}" in line
    assert "in use" in line


def test_a_directory_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = _refused("serve", "--port", "0", "--data-dir", "file/data", cwd=tmp_path)
    assert "cannot be written" in line


NOWHERE = {"FLOW_JWT_SECRET": "x" * 32}


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"FLOW_MONGO_URL": "mongodb://127.0.0.1:1"}, "FLOW_REDIS_URL is missing"),
        (
            {"FLOW_MONGO_URL": "mongodb://127.0.0.1:1", "FLOW_REDIS_URL": "redis://127.0.0.1:1"},
            "FLOW_MONGO_URL",
        ),
        ({"FLOW_MONGO_URL": "http://x", "FLOW_REDIS_URL": "redis://127.0.0.1:1"}, "FLOW_MONGO_URL"),
        ({"FLOW_MONGO_URL": "mongodb://127.0.0.1:1", "FLOW_REDIS_URL": "localhost:6379"}, "FLOW_REDIS_URL"),
        ({"FLOW_JWT_SECRET": "short"}, "32 bytes"),
        ({"FLOW_JWT_SECRT": "x"}, "FLOW_JWT_SECRET"),
        ({"FLOW_STATE_TTL": "soon"}, "FLOW_STATE_TTL"),
        ({"FLOW_DEFINITIONS": "ftp://x"}, "FLOW_DEFINITIONS"),
        ({"FLOW_DEFINITIONS": "file:nowhere"}, "nowhere"),
    ],
)
def test_bad_settings_are_one_clear_line(tmp_path: Path, env: dict[str, str], says: str) -> None:
    line = _refused("serve", "--port", "0", cwd=tmp_path, env={**NOWHERE, **env})
    assert says in line


def test_polling_takes_one_worker(tmp_path: Path) -> None:
    env = {**NOWHERE, "FLOW_SOCKET_TRANSPORTS": "websocket,polling"}
    assert "sticky" in _refused("serve", "--port", "0", "--workers", "2", cwd=tmp_path, env=env)


def test_a_missing_secret_stops_the_start(tmp_path: Path) -> None:
    env = {"FLOW_MONGO_URL": "mongodb://127.0.0.1:1", "FLOW_REDIS_URL": "redis://127.0.0.1:1"}
    line = _refused("serve", "--port", "0", cwd=tmp_path, env=env)
    assert "FLOW_JWT_SECRET" in line


def test_a_broken_definition_file_stops_the_start_and_says_where(tmp_path: Path) -> None:
    flows = tmp_path / "config" / "flows"
    flows.mkdir(parents=True)
    (flows / "broken.json").write_text('{"flow": "bro:ken", "initialStep": "a", "steps": {}}')
    line = _refused("serve", "--port", "0", cwd=tmp_path)
    assert "broken.json: steps: " in line
    assert "broken.json: flow: " in line
    assert not (tmp_path / ".flow-data").exists()
