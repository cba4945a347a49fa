"""Writes the byte code of the packages once, so that the processes of the tests need not compile them.

Python does that itself, unless ``PYTHONDONTWRITEBYTECODE`` is set: then each start costs 0.3 s more CPU.
"""

import compileall
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "models", "realtime", "config")


def pytest_configure(config: pytest.Config) -> None:
    """Compile what has changed, once a run."""
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        for package in PACKAGES:
            compileall.compile_dir(ROOT / package, quiet=2)
