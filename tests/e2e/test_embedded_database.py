"""The embedded database: killed, on a full disk, with damaged files, and with files of another server."""

import asyncio
import ctypes
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
import pytest

from app.auth.tokens import issue_token
from tests.support.commands import run_command
from tests.support.environment import is_of_tests
from tests.support.http import http_client
from tests.support.long_form import form
from tests.support.serving import COMMAND, Serving

FLOW = "user-onboarding"
KILLS = form("crash test of the embedded database: kills", short=1, long=20)
WRITERS = 8
SEED = 20_261_126
MAX_FILE_BYTES = 400_000
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24


class Embedded(Serving):
    """``serve`` on embedded servers in ``cwd``/data."""

    def __init__(self, cwd: Path) -> None:
        super().__init__("--data-dir", "data", env={}, cwd=cwd)
        self.secret = json.loads((cwd / "data" / "secrets.json").read_text())["jwt"]

    @property
    def database(self) -> psutil.Process:
        """The process of the database."""
        return next(p for p in self.family() if p.name().startswith("secantus"))

    def client(self) -> httpx.AsyncClient:
        """An HTTP client that may name any user."""
        token = issue_token(self.secret, "root", ttl=timedelta(hours=1), scopes=["flow:admin"])
        headers = {"Authorization": f"Bearer {token}"}
        return http_client(f"{self.url}/api/flow/{FLOW}", headers=headers, timeout=20)


@pytest.fixture
def cwd(tmp_path: Path) -> Iterator[Path]:
    """A folder whose files are removed at once: each database takes tens of megabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path / "data", ignore_errors=True)


async def write(http: httpx.AsyncClient, users: Iterator[str], acknowledged: dict[str, int]) -> None:
    """Start and reset states of new users until the service fails; keep what was acknowledged."""
    for user in users:
        for revision, path in enumerate(("start", "reset", "reset")):
            try:
                answer = await http.post(f"/{path}", params={"userId": user})
            except httpx.TransportError:
                return
            if answer.status_code >= 500:
                return
            assert answer.json()["revision"] == revision, answer.text
            acknowledged[user] = revision


def until(ended: asyncio.Event, users: Iterator[str]) -> Iterator[str]:
    """Take users until the event."""
    return itertools.takewhile(lambda _: not ended.is_set(), users)


async def unproven(http: httpx.AsyncClient, acknowledged: dict[str, int]) -> list[str]:
    """The users whose state or history lacks something that was acknowledged."""
    failed = []
    users = iter(acknowledged.items())

    async def check() -> None:
        for user, revision in users:
            state = (await http.get("/state", params={"userId": user})).json()
            chain = (await http.get("/history/verify", params={"userId": user})).json()
            if state is None or state["revision"] < revision or not chain["whole"]:
                failed.append(user)

    await asyncio.gather(*(check() for _ in range(WRITERS)))
    return failed


async def until_ready(http: httpx.AsyncClient) -> None:
    """Wait until the service says that it is ready."""
    async with asyncio.timeout(60):
        while (await http.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.05)


@pytest.mark.timeout(1800)
async def test_kill_9_of_the_database_loses_nothing_and_needs_nobody(cwd: Path) -> None:
    chance = random.Random(SEED)
    acknowledged: dict[str, int] = {}
    names = (f"user-{n}" for n in range(1_000_000))
    killed_under_load = 0
    serving: Embedded | None = None
    for kill in range(KILLS):
        if serving is None:
            serving = Embedded(cwd)
        before = set(acknowledged)
        restarted = asyncio.Event()
        users = until(restarted, names)
        async with serving.client() as http, http_client(serving.url) as anonymous:
            writers = [asyncio.create_task(write(http, users, acknowledged)) for _ in range(WRITERS)]
            async with asyncio.timeout(60):
                goal = len(before) + chance.randint(40, 120)
                while len(acknowledged) < goal:
                    await asyncio.sleep(0.01)
            deaths = serving.output.count("embedded server died")
            serving.database.send_signal(signal.SIGKILL)
            killed_under_load += len(acknowledged) >= goal
            pattern = f"(?s)(embedded server died.*){{{deaths + 1}}}embedded server restarted"
            await asyncio.to_thread(serving.wait_for, pattern)
            await until_ready(anonymous)
            restarted.set()
            await asyncio.gather(*writers)
            state = await http.post("/start", params={"userId": f"after-{kill}"})
            assert state.json()["revision"] == 0, state.text
            is_last = kill == KILLS - 1  # all of them each time would take longer and longer
            proven = set() if is_last else before
            lost = await unproven(http, {u: n for u, n in acknowledged.items() if u not in proven})
        assert lost == []
        if kill % 3 == 2 or is_last:  # more deaths in a row end it
            assert serving.end() == 0
            serving = None
    print(f"kills {killed_under_load}, acknowledged {sum(acknowledged.values()) + len(acknowledged)}")
    assert killed_under_load == KILLS


async def test_a_full_disk_is_refused_with_its_reason_and_needs_only_space(cwd: Path) -> None:
    """The limit on the size of files fails each write behind it, as a full disk does."""
    serving = Embedded(cwd)
    acknowledged: dict[str, int] = {}
    async with serving.client() as http, http_client(serving.url) as anonymous:
        serving.database.rlimit(psutil.RLIMIT_FSIZE, (MAX_FILE_BYTES, resource.RLIM_INFINITY))
        limits = psutil.Process(serving.popen.pid)  # what it starts inherits them
        limits.rlimit(psutil.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        await write(http, (f"user-{n}" for n in itertools.count()), acknowledged)
        refused = await http.post("/start", params={"userId": "late"})
        assert (refused.status_code, refused.json()["code"]) == (503, "STORE_UNAVAILABLE")
        assert refused.json()["retryable"]
        await asyncio.to_thread(
            serving.wait_for, "embedded server died.*: the disk of .*data is full; make room"
        )
        ready = await anonymous.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["mongodb"] == "STORE_UNAVAILABLE"
        assert ready.json()["reasons"]["mongodb"] == "the disk of the embedded database is full"
        limits.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await until_ready(anonymous)
        assert await unproven(http, acknowledged) == []
        assert (await http.post("/start", params={"userId": "late"})).status_code in (200, 201)
    assert serving.end() == 0
    assert "Traceback" not in serving.output
    assert acknowledged


SERVE = ("serve", "--port", "0", "--data-dir", "data")


def refused(cwd: Path) -> str:
    """The line with which ``serve`` does not start."""
    ended = run_command(SERVE, {}, cwd)
    return the_line(ended.code, ended.stdout, ended.stderr)


def refused_without_override(cwd: Path) -> str:
    """The line with which ``serve`` does not start, where modes bind root too."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("FLOW_") or is_of_tests(k)}
    ended = subprocess.run(
        [COMMAND, *SERVE],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=without_override,
    )
    return the_line(ended.returncode, ended.stdout, ended.stderr)


def the_line(code: int, stdout: str, stderr: str) -> str:
    """The only line of a command that failed."""
    assert code == 1, stdout
    lines = [line for line in stderr.splitlines() if line]
    assert len(lines) == 1, stderr
    return lines[0]


def without_override() -> None:
    """Give up root's right to write what its mode forbids; without effect for other users."""
    libc = ctypes.CDLL(None)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory that was in use."""
    folder = tmp_path_factory.mktemp("used")
    Embedded(folder).end()
    yield folder / "data"
    shutil.rmtree(folder)


@pytest.fixture
def written(used: Path, cwd: Path) -> Path:
    """A copy of it of the test's own."""
    return Path(shutil.copytree(used, cwd / "data"))


@pytest.mark.parametrize("name", ["WiredTiger.wt", "WiredTiger.turtle", "secantus_collections.wt"])
def test_a_truncated_file_is_one_clear_line(written: Path, cwd: Path, name: str) -> None:
    file = written / "mongodb" / name
    os.truncate(file, file.stat().st_size // 2)
    line = refused(cwd)
    assert "files in" in line
    assert "may be damaged" in line
    assert "server-flow data import" in line


def test_missing_secrets_are_one_clear_line(written: Path, cwd: Path) -> None:
    (written / "secrets.json").unlink()
    assert "its secrets.json is missing" in refused(cwd)


def test_secrets_of_another_directory_are_reported_and_no_setting_is_blamed(written: Path, cwd: Path) -> None:
    other = json.loads((written / "secrets.json").read_text())
    (written / "secrets.json").write_text(json.dumps({**other, "mongo": "x" * 64}))
    for arguments in (SERVE, ("flows", "list", "--data-dir", "data")):
        ended = run_command(arguments, {}, cwd)
        line = ended.stderr.splitlines()[-1]
        assert ended.code == 1
        assert "does not accept the password in its secrets.json" in line
        assert "Restore the file" in line
        assert "FLOW_MONGO_URL" not in ended.stderr
        assert "Traceback" not in ended.stderr


def test_what_stands_in_the_place_of_a_folder_or_file_is_one_clear_line(written: Path, cwd: Path) -> None:
    for name, says in (("redis", "File exists"), ("redis.log", "Is a directory")):
        place = written / name
        if name == "redis":
            shutil.rmtree(place)
            place.touch()
        else:
            (written / "redis").unlink()
            place.unlink()
            place.mkdir()
        line = refused(cwd)
        assert str(place) in line
        assert line.endswith(says)


@pytest.mark.parametrize("folder", [".", "mongodb"])
def test_a_directory_without_rights_is_one_clear_line(written: Path, cwd: Path, folder: str) -> None:
    (written / folder).chmod(0o500)
    try:
        line = refused_without_override(cwd)
    finally:
        (written / folder).chmod(0o700)
    assert ("cannot be written: Permission denied" if folder == "." else "may not read or write") in line


def test_files_of_another_server_are_never_opened(written: Path, cwd: Path) -> None:
    mark = written / "database.json"
    ours = json.loads(mark.read_text())
    mark.write_text(json.dumps({"server": "secantusd-xx", "version": "9.9"}))
    line = refused(cwd)
    assert "was written by secantusd-xx of SecantusDB 9.9" in line
    assert f"{ours['server']} of SecantusDB {ours['version']} must not open it" in line
    assert "server-flow data export" in line
    mark.write_text(json.dumps({**ours, "version": "0.0.1"}))
    assert "was written by" in refused(cwd)
    mark.write_text(json.dumps(ours))
    Embedded(cwd).end()


def test_files_without_a_mark_are_those_of_version_0_4(written: Path, cwd: Path) -> None:
    mark = json.loads((written / "database.json").read_text())
    (written / "database.json").unlink()
    if mark == {"server": "secantusd-py", "version": "0.7.0b3"}:  # these tests run on the server of 0.4
        Embedded(cwd).end()
        assert json.loads((written / "database.json").read_text()) == mark
        return
    line = refused(cwd)
    assert "was written by secantusd-py of SecantusDB 0.7.0b3" in line
    assert "pip install 'SecantusDB==0.7.0b3'" in line


def test_an_old_process_is_never_left(written: Path, cwd: Path) -> None:
    """The mark is read before a server starts."""
    (written / "database.json").write_text("{")
    assert "database.json cannot be read" in refused(cwd)
    assert not [p for p in psutil.process_iter() if str(written) in " ".join(_command_of(p))]


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
