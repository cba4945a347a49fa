"""Real servers for the tests: started from the packages of the embedded default, or the ones that
FLOW_TEST_MONGO_URL and FLOW_TEST_REDIS_URL name."""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.main import Parts
from app.process.embedded import EmbeddedServers
from config.settings import Settings

for name in [name for name in os.environ if name.startswith("FLOW_") and not name.startswith("FLOW_TEST_")]:
    del os.environ[name]

SECRET = "a secret for tests that is long enough"


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings that name a MongoDB and a Redis."""
    base = Settings(_env_file=None, jwt_secret=SECRET, log_level="error")
    mongo, redis = os.environ.get("FLOW_TEST_MONGO_URL"), os.environ.get("FLOW_TEST_REDIS_URL")
    if mongo and redis:
        yield base.model_copy(update={"mongo_url": SecretStr(mongo), "redis_url": SecretStr(redis)})
        return
    embedded = EmbeddedServers(tmp_path_factory.mktemp("servers"))
    yield embedded.start(base)
    embedded.stop()


@pytest.fixture
async def settings(servers: Settings) -> AsyncIterator[Settings]:
    """Settings with a database of their own."""
    own = servers.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    yield own
    parts = Parts(own)
    for name in ("flow_history", "flow_states"):  # the embedded server takes its time to drop what has much
        await parts.database.collection(name).delete_many({})
    await parts.database.drop()
    await parts.database.close()
    await parts.bus.stop()


@pytest.fixture
async def parts(settings: Settings) -> AsyncIterator[Parts]:
    """A running service on the real servers, with the shipped flows."""
    from app.main import take_up_definitions

    parts = Parts(settings)
    async with parts.running() as service:
        await take_up_definitions(service, settings)
        yield parts


@pytest.fixture
def shipped() -> Path:
    """The folder of the flows that ship."""
    from config.settings import SHIPPED_FLOWS

    return SHIPPED_FLOWS
