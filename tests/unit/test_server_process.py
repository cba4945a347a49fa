"""An embedded server as a process: started again on its port, and given up with the reason of its log."""

import os
import resource
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.process.data_directory import DataDirectory
from app.process.database_server import EmbeddedError
from app.process.restarts import MAX_DEATHS
from app.process.server_process import ServerProcess, has_space
from app.process.server_watch import ServerWatch

LISTEN = """
import pathlib, socket, sys
if pathlib.Path(sys.argv[2]).exists():
    sys.exit(">>> requirepass secret\\nBad directive")
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    server.accept()
"""


def listens(port: int) -> bool:
    """Return whether something listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A server does not start while this file exists."""
    return tmp_path / "broken"


@pytest.fixture
def server(tmp_path: Path, broken: Path) -> Iterator[ServerProcess]:
    def command(port: int) -> list[str]:
        return [sys.executable, "-IS", "-c", LISTEN, str(port), str(broken)]

    process = ServerProcess("redis", DataDirectory(tmp_path), command, lambda _: None)
    yield process
    process.terminate()
    process.join(5)


@pytest.mark.expected_logs("embedded server died")
@pytest.mark.expected_logs("embedded server restarted", optional=True)  # it may be killed before that
def test_it_is_started_again_on_its_port_until_it_cannot_start(server: ServerProcess, broken: Path) -> None:
    given_up: list[str] = []
    ended = threading.Event()
    port = server.start()

    def on_failure(line: str) -> None:
        given_up.append(line)
        ended.set()

    ServerWatch(server, on_failure, delays=(0, 0.01)).start()
    before = server.pid
    server.kill()
    while server.pid == before or not listens(port):
        assert not server.pause(0.01)
    assert server.port == port
    broken.touch()
    server.kill()
    assert ended.wait(60)
    (line,) = given_up
    assert line.startswith("The embedded redis server did not start: bad directive; see ")
    assert line.endswith("(5 times in a row)")
    assert "secret" not in line


def test_a_named_pipe_as_its_log_is_an_error(server: ServerProcess) -> None:
    os.mkfifo(server.log)
    with pytest.raises(EmbeddedError, match=r"cannot start: .*redis\.log: No such device"):
        server.start()


@pytest.mark.expected_logs("embedded server died", optional=True)
def test_one_that_is_stopped_stays_so(server: ServerProcess) -> None:
    server.start()
    ServerWatch(server, pytest.fail).start()
    server.terminate()
    server.join(5)
    assert not server.running
    with pytest.raises(EmbeddedError, match="is stopped"):
        server.start()


class OnFullDisk(ServerProcess):
    """A server that dies of a full disk, which is full until a file is gone."""

    def is_disk_full(self) -> bool:
        return True


@pytest.mark.expected_logs("embedded server died", "embedded server restarted")
def test_a_full_disk_never_ends_it(tmp_path: Path, broken: Path) -> None:
    starts = tmp_path / "starts"
    starts.touch()

    def command(port: int) -> list[str]:
        with starts.open("a") as counted:
            counted.write(".")
        return [sys.executable, "-IS", "-c", LISTEN, str(port), str(broken)]

    server = OnFullDisk("redis", DataDirectory(tmp_path), command, lambda _: None)
    port = server.start()
    ServerWatch(server, pytest.fail, delays=(0.0,)).start()
    broken.touch()
    server.kill()
    while len(starts.read_text()) < 2 + MAX_DEATHS:
        assert not server.pause(0.01)
    broken.unlink()
    while not server.running or server.serving_since is None:
        assert not server.pause(0.01)
    assert listens(port)
    server.pause(0.05)  # its line in the log
    server.terminate()
    server.join(5)


def test_a_disk_without_space_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_space(tmp_path)
    assert has_space(tmp_path / "missing"), "another fault than space"
    with monkeypatch.context() as patched:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            assert not has_space(tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        real = os.statvfs(tmp_path)
        free = SimpleNamespace(f_bavail=10, f_frsize=real.f_frsize)
        patched.setattr("app.process.server_process.os.statvfs", lambda _: free)
        assert not has_space(tmp_path)
    assert list(tmp_path.iterdir()) == []
