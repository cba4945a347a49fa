"""One serving process on the real servers, shared by the tests of the doors."""

import uuid
from collections.abc import Iterator

import pytest

from config.settings import Settings
from tests.support.serving import Serving, external


@pytest.fixture(scope="session")
def serving(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """``serve`` with a database of its own; tests use users of their own."""
    own = servers.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    shared = Serving(env=external(own), cwd=tmp_path_factory.mktemp("serving"))
    yield shared
    shared.end()


@pytest.fixture
def user() -> str:
    """A user that no other test has."""
    return f"user-{uuid.uuid4().hex[:8]}"
