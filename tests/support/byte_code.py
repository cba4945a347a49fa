"""Writes the byte code of the packages and of the tests once, so that the processes of a run need not compile
them.

Python does that itself, unless ``PYTHONDONTWRITEBYTECODE`` is set: then each start of a command costs 0.3 s
more CPU. The tests take 15 s in each process that runs some, as pytest rewrites their assertions; processes
that start together would all do it, also without that variable.
"""

import compileall
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "models", "realtime", "config")
AT_ONCE = 2
WORTH_IT = 20
"""Files: fewer are compiled by who needs them."""


def pytest_configure(config: pytest.Config) -> None:
    """Compile what has changed, once a run."""
    unwritten = sys.dont_write_bytecode
    sys.dont_write_bytecode = False
    if hasattr(config, "workerinput"):
        return
    if unwritten:
        for package in PACKAGES:
            compileall.compile_dir(ROOT / package, quiet=2)
    if config.getoption("numprocesses", None):
        stale = [file for file in _selected(config) if not _is_compiled(file)]
        if len(stale) >= WORTH_IT:
            _compile_tests(stale)


def _selected(config: pytest.Config) -> list[Path]:
    """Return the test files below the paths that the run was given."""
    paths = [Path(argument.split("::")[0]) for argument in config.args]
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("test_*.py"))]
    return sorted(set(files), key=lambda file: file.stat().st_size)


def _is_compiled(file: Path) -> bool:
    """Tell whether pytest has compiled the present text of a test file with this Python."""
    name = f"{file.stem}.{sys.implementation.cache_tag}-pytest-{pytest.__version__}.pyc"
    compiled = file.parent / "__pycache__" / name
    return compiled.exists() and compiled.stat().st_mtime >= file.stat().st_mtime


def _compile_tests(files: list[Path]) -> None:
    """Have pytest collect the files, in a few processes: it compiles what it collects."""
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-p", "no:cacheprovider"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    print(f"compiling {len(files)} test files …", flush=True)
    compilers = [
        subprocess.Popen(
            [*collect, *map(str, files[first::AT_ONCE])],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for first in range(AT_ONCE)
    ]
    for compiler in compilers:
        compiler.wait()
