"""A folder for the servers that tests share, in memory: each of their writes waits for the disk otherwise."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

MEMORY = Path("/dev/shm")
NEEDED_BYTES = 3 * 2**30
"""Of a few processes of tests that share it."""
PREFIX = "server-flow-tests-"


@contextmanager
def folder_in_memory() -> Iterator[Path | None]:
    """Make a folder, and remove it. None without enough memory for files."""
    if not os.access(MEMORY, os.W_OK) or _free_bytes() < NEEDED_BYTES:
        yield None
        return
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=MEMORY))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_bytes() -> int:
    return min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available)


def _remove_abandoned() -> None:
    """Remove the folders of processes that were killed."""
    for folder in MEMORY.glob(f"{PREFIX}*"):
        if not psutil.pid_exists(int(folder.name.removeprefix(PREFIX).split("-")[0])):
            shutil.rmtree(folder, ignore_errors=True)
