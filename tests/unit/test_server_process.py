"""An embedded server as a process: started again on its port, and given up with the reason of its log."""

import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.process.data_directory import DataDirectory
from app.process.database_server import EmbeddedError
from app.process.server_process import ServerProcess
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
        return [sys.executable, "-c", LISTEN, str(port), str(broken)]

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

    ServerWatch(server, on_failure).start()
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


@pytest.mark.expected_logs("embedded server died", optional=True)
def test_one_that_is_stopped_stays_so(server: ServerProcess) -> None:
    server.start()
    ServerWatch(server, pytest.fail).start()
    server.terminate()
    server.join(5)
    assert not server.running
    with pytest.raises(EmbeddedError, match="is stopped"):
        server.start()
