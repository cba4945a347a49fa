"""Fixtures of all tests. The servers are started from the packages of the embedded default, or are those of
``FLOW_TEST_MONGO_URL`` and ``FLOW_TEST_REDIS_URL``.

Fixtures import what they need of the service: the controlling process of xdist, for which the others wait,
needs none of it.
"""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.environment import MONGO_URL, REDIS_URL, is_of_tests
from tests.support.folder_in_memory import folder_in_memory
from tests.support.javascript import modules
from tests.support.log_events import LogEvents, Recorder, expected_events, problems

if TYPE_CHECKING:
    from pymongo import MongoClient

    from app.main import Backend
    from config.settings import Settings

pytest_plugins = [
    "tests.support.byte_code",
    "tests.support.garbage",
    "tests.support.long_form",
    "tests.support.markers",
    "tests.support.progress",
]

for name in [name for name in os.environ if name.startswith("FLOW_") and not is_of_tests(name)]:
    del os.environ[name]

SECRET = "a secret for tests that is long enough"

RECORDER = Recorder()
RECORDER.install()


@pytest.fixture(autouse=True)
def log_events(request: pytest.FixtureRequest) -> Iterator[LogEvents]:
    """The log events of this test. Fails it on a warning or an error that it does not expect."""
    RECORDER.configure()
    RECORDER.events = LogEvents()
    yield RECORDER.events
    found = problems(RECORDER.events, *expected_events(request.node))
    if found:
        pytest.fail("\n".join([*found, "see tests/support/log_events.py"]), pytrace=False)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Settings"]:
    """Settings that name a MongoDB and a Redis."""
    from pydantic import SecretStr

    from app.process.embedded import EmbeddedServers
    from config.settings import Settings

    base = Settings(_env_file=None, jwt_secret=SECRET, log_level="error")
    if MONGO_URL and REDIS_URL:
        yield base.model_copy(update={"mongo_url": SecretStr(MONGO_URL), "redis_url": SecretStr(REDIS_URL)})
        return
    with folder_in_memory() as folder:
        embedded = EmbeddedServers(folder or tmp_path_factory.mktemp("servers"))
        yield embedded.start(base)
        embedded.stop()


@pytest.fixture(scope="session")
def mongo_client(servers: "Settings") -> Iterator["MongoClient[dict[str, Any]]"]:
    """A client that prepares test databases."""
    from pymongo import MongoClient

    assert servers.mongo_url is not None
    client: MongoClient[dict[str, Any]] = MongoClient(servers.mongo_url.get_secret_value())
    with client:
        yield client


@pytest.fixture
async def settings(
    servers: "Settings", mongo_client: "MongoClient[dict[str, Any]]"
) -> AsyncIterator["Settings"]:
    """Settings with a database of their own, in which there is nothing but indexes."""
    from models.database import connect
    from tests.support.databases import discard, prepare_cheaply

    own = servers.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    prepare_cheaply(mongo_client, own.mongo_database)
    yield own
    assert own.mongo_url is not None
    await discard(connect(own.mongo_url.get_secret_value(), own.mongo_database))


@pytest.fixture
async def parts(settings: "Settings") -> AsyncIterator["Backend"]:
    """A running service on the real servers, with the shipped flows."""
    from app.main import Backend, publish_definitions

    parts = Backend(settings)
    async with parts.running() as service:
        await publish_definitions(service, settings)
        yield parts


@pytest.fixture
async def clear_parts(settings: "Settings") -> AsyncIterator["Backend"]:
    """A running service without encryption, with the shipped flows."""
    from app.main import Backend, publish_definitions

    parts = Backend(settings.model_copy(update={"encryption_keys": None}))
    async with parts.running() as service:
        await publish_definitions(service, settings)
        yield parts


@pytest.fixture(scope="session")
def node_packages() -> Path:
    """The folder of npm's packages, installed if necessary."""
    return modules()


@pytest.fixture
def shipped() -> Path:
    """The folder of the flows that ship."""
    from config.settings import SHIPPED_FLOWS

    return SHIPPED_FLOWS
