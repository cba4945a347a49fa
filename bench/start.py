"""CPU seconds until a process answers: one worker, two workers, commands; and a bare Starlette application.

The embedded servers run beforehand, so that only our own processes are measured. CPU is user and system
time, of the process that answers and of all processes together (the supervisor of two workers included).
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import msgspec
import psutil

from app.process.server_process import free_port
from bench.common import Report, embedded
from config.settings import SHIPPED_FLOWS, Settings

POLL_SECONDS = 0.01
START_SECONDS = 60.0
COMMAND = str(Path(sys.executable).with_name("server-flow"))
ROOT = Path(__file__).parents[1]


class Started(msgspec.Struct):
    """CPU seconds of one start: of the busiest worker, and of all processes."""

    worker_livez: float
    all_livez: float
    worker_readyz: float
    all_readyz: float
    seconds_readyz: float


def run(report: Report, rounds: int) -> None:
    """Print a table: medians of ``rounds`` starts of each, in turn."""
    with embedded() as (_, settings, folder):
        _compare(report, _environment(settings), folder, rounds)


def _compare(report: Report, env: dict[str, str], folder: str, rounds: int) -> None:
    quiet = ["--log-level", "warning", "--no-access-log", "--loop", "uvloop"]
    floor = [sys.executable, "-m", "uvicorn", "bench.start_floor:app", *quiet]
    subjects: dict[str, Callable[[], Started]] = {
        "floor": lambda: _start(floor, env, folder),
        "serve, 1 worker": lambda: _start([COMMAND, "serve"], env, folder),
        "serve, 2 workers": lambda: _start([COMMAND, "serve", "--workers", "2"], env, folder),
    }
    commands = {
        "server-flow --help": [COMMAND, "--help"],
        "server-flow token": [COMMAND, "token", "--user", "ada"],
        "server-flow flows list": [COMMAND, "flows", "list"],
    }
    found: dict[str, list[Started]] = {name: [] for name in subjects}
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    subjects["serve, 1 worker"]()  # creates the collections and writes the byte code
    for _ in range(rounds):
        for name, start in subjects.items():
            found[name].append(start())
        for name, command in commands.items():
            cpu[name].append(_cpu_of_command(command, env, folder))
    print(f"CPU seconds until it answers, medians of {rounds} rounds")
    print(f"{'':>24}{'worker /livez':>15}{'all /livez':>12}{'worker /readyz':>16}{'all':>9}{'wall':>9}")
    for name, rows in found.items():
        row = [statistics.median(getattr(each, f) for each in rows) for f in Started.__struct_fields__]
        print(f"{name:>24}{row[0]:15.2f}{row[1]:12.2f}{row[2]:16.2f}{row[3]:9.2f}{row[4]:9.2f}")
        report.add(name, **dict(zip(Started.__struct_fields__, row, strict=True)))
    for name, times in cpu.items():
        print(f"{name:>24}{statistics.median(times):15.2f}")
        report.add(name, cpuSeconds=statistics.median(times))


def _environment(settings: Settings) -> dict[str, str]:
    assert settings.mongo_url is not None
    assert settings.redis_url is not None
    assert settings.jwt_secret is not None
    return {
        "FLOW_MONGO_URL": settings.mongo_url.get_secret_value(),
        "FLOW_REDIS_URL": settings.redis_url.get_secret_value(),
        "FLOW_JWT_SECRET": settings.jwt_secret.get_secret_value(),
        "FLOW_DEFINITIONS": f"database,file:{SHIPPED_FLOWS}",
        "FLOW_LOG_LEVEL": "warning",
        "PYTHONPATH": str(ROOT),
    }


def _start(command: list[str], env: dict[str, str], folder: str) -> Started:
    port = free_port()
    with _running([*command, "--port", str(port)], env, folder) as process:
        began = time.monotonic()
        _wait_for(port, "/livez", process)
        livez = _cpu(process.pid)
        _wait_for(port, "/readyz", process)
        readyz = _cpu(process.pid)
        return Started(*livez, *readyz, time.monotonic() - began)


@contextmanager
def _running(command: list[str], env: dict[str, str], folder: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        env={**os.environ, **env},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(port: int, path: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"no answer on {path}")


def _cpu(pid: int) -> tuple[float, float]:
    """CPU seconds of the busiest worker below ``pid`` (of itself when it has none), and of all processes."""
    parent = psutil.Process(pid)
    below = {child: sum(child.cpu_times()[:2]) for child in parent.children(recursive=True)}
    own = sum(parent.cpu_times()[:2])
    return max(below.values(), default=own), own + sum(below.values())


def _cpu_of_command(command: list[str], env: dict[str, str], folder: str) -> float:
    process = subprocess.Popen(command, env={**os.environ, **env}, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime
