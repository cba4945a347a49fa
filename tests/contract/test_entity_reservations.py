"""The contract of EntityReservations."""

import asyncio

import pytest

from app.contracts.ports.entities import EntityReservations
from models.database import Database
from models.entity_reservations import MongoEntityReservations
from tests.support.fakes import FakeEntityReservations
from tests.support.samples import T0

PORTS = (EntityReservations,)


@pytest.fixture
def reservations(database: Database | None) -> EntityReservations:
    return FakeEntityReservations() if database is None else MongoEntityReservations(database)


async def test_a_request_retains_its_entity(reservations: EntityReservations) -> None:
    assert await reservations.reserve("loop:ada\0r-1", "e-1", T0) == "e-1"
    assert await reservations.reserve("loop:ada\0r-1", "e-2", T0) == "e-1"
    assert await reservations.reserve("loop:ada\0r-2", "e-3", T0) == "e-3"
    assert await reservations.reserve("loop:bob\0r-1", "e-4", T0) == "e-4"
    assert await reservations.reserve("loop:ada\0r-1", "e-5", T0) == "e-1"


async def test_all_concurrent_repeats_get_the_same_entity(reservations: EntityReservations) -> None:
    for request in ("one", "two"):
        entities = [f"{request}-{n}" for n in range(20)]
        reserved = await asyncio.gather(*(reservations.reserve(request, each, T0) for each in entities))
        assert len(set(reserved)) == 1
        assert reserved[0] in entities
