"""The contract of SecretStore."""

import asyncio
from collections.abc import Callable

import pytest

from app.contracts.ports.secrets import SecretStore
from models.database import Database
from models.secret_store import MongoSecretStore
from tests.support.fakes import FakeSecretStore

PORTS = (SecretStore,)


@pytest.fixture
def connect(database: Database | None) -> Callable[[], SecretStore]:
    """Builds the store of one more worker."""
    fake = FakeSecretStore()
    return lambda: fake if database is None else MongoSecretStore(database)


async def test_a_secret_is_made_once_and_has_32_bytes(connect: Callable[[], SecretStore]) -> None:
    first = await connect().secret("bus")
    assert len(first) == 32
    assert await connect().secret("bus") == first


async def test_each_name_has_a_secret_of_its_own(connect: Callable[[], SecretStore]) -> None:
    assert await connect().secret("bus") != await connect().secret("tokens")


async def test_workers_that_request_it_first_together_get_the_same(
    connect: Callable[[], SecretStore],
) -> None:
    secrets = await asyncio.gather(*(connect().secret("bus") for _ in range(20)))
    assert len(set(secrets)) == 1
