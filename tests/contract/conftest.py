"""Each port's suite runs against the fake, MongoDB's code on mongomock, and the real servers."""

import uuid
from collections.abc import AsyncIterator

import pytest

from config.settings import Settings
from models.database import Database, connect
from tests.support.databases import discard
from tests.support.mock_database import mock_database


@pytest.fixture(params=["fake", "mongomock", pytest.param("mongodb", marks=pytest.mark.server)])
async def database(request: pytest.FixtureRequest) -> AsyncIterator[Database | None]:
    """The database below a store; None for the fake."""
    if request.param == "fake":
        yield None
    elif request.param == "mongomock":
        yield await mock_database()
    else:
        settings: Settings = request.getfixturevalue("servers")
        assert settings.mongo_url is not None
        database = connect(settings.mongo_url.get_secret_value(), f"test_{uuid.uuid4().hex[:12]}")
        await database.prepare()
        yield database
        await discard(database)
