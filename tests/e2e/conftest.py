"""Servers for the end-to-end tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from config.settings import Settings
from tests.support.serving import Serving, external


@pytest.fixture
async def two_workers(settings: Settings, tmp_path: Path) -> AsyncIterator[Serving]:
    """``serve --workers 2`` on the real servers, with a database of its own."""
    serving = Serving("--workers", "2", env=external(settings), cwd=tmp_path)
    yield serving
    serving.end()


@pytest.fixture
async def two_hosts(settings: Settings, tmp_path: Path) -> AsyncIterator[tuple[Serving, Serving]]:
    """Two workers that can be told apart: each with a port of its own, on the same servers."""
    first = Serving(env=external(settings), cwd=tmp_path)
    second = Serving(env=external(settings), cwd=tmp_path)
    yield first, second
    second.end()
    first.end()
