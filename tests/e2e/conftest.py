"""Running processes of ``server-flow``, and what their tests share."""

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from config.settings import Settings
from tests.support.serving import Serving, end_together, external, serving_together
from tests.support.shell import Shell
from tests.support.shorter_waits import SWEEPS


@pytest.fixture(scope="session")
def serving(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """``serve`` with its own database, shared by all tests of a process; they use users of their own."""
    own = servers.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    shared = Serving(env=external(own), cwd=tmp_path_factory.mktemp("serving"))
    yield shared
    shared.end()


@pytest.fixture
def user() -> str:
    """A user that no other test has."""
    return f"user-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def shell(settings: Settings, tmp_path: Path) -> Shell:
    """Commands on a database of their own, in a folder of their own."""
    return Shell(settings, tmp_path)


@pytest.fixture(scope="session")
def shared_hosts(
    servers: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Serving, Serving]]:
    """Two workers, each with a port of its own, for tests that harm neither and use users of their own."""
    own = servers.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    first, second = serving_together(2, env=external(own), cwd=tmp_path_factory.mktemp("hosts"))
    yield first, second
    end_together([first, second])


@pytest.fixture
async def two_workers(settings: Settings, tmp_path: Path) -> AsyncIterator[Serving]:
    """``serve --workers 2`` on the real servers, with a database of its own."""
    serving = Serving("--workers", "2", env=external(settings), cwd=tmp_path, constants=SWEEPS)
    yield serving
    serving.end()


@pytest.fixture
async def two_hosts(settings: Settings, tmp_path: Path) -> AsyncIterator[tuple[Serving, Serving]]:
    """Two workers that can be told apart: each with a port of its own, on the same servers."""
    first, second = serving_together(2, env=external(settings), cwd=tmp_path, constants=SWEEPS)
    yield first, second
    end_together([first, second])
