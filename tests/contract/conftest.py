"""Each port's suite runs against the fake, MongoDB's code on mongomock, and the real servers."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mongomock import aggregate
from mongomock.collection import BulkOperationBuilder
from mongomock_motor import AsyncMongoMockClient

from config.settings import Settings
from models.database import Database, connect
from tests.support.databases import discard


async def _mock_database() -> Database:
    database = Database(AsyncMongoMockClient(tz_aware=True), f"test_{uuid.uuid4().hex}")
    await database.prepare()
    return database


@pytest.fixture(params=["fake", "mongomock", pytest.param("mongodb", marks=pytest.mark.server)])
async def database(request: pytest.FixtureRequest) -> AsyncIterator[Database | None]:
    """The database below a store; None for the fake."""
    if request.param == "fake":
        yield None
    elif request.param == "mongomock":
        yield await _mock_database()
    else:
        settings: Settings = request.getfixturevalue("servers")
        assert settings.mongo_url is not None
        database = connect(settings.mongo_url.get_secret_value(), f"test_{uuid.uuid4().hex[:12]}")
        await database.prepare()
        yield database
        await discard(database)


def _accept_sort(add_statement: Any) -> Any:
    """mongomock 4.3 does not know the ``sort`` that PyMongo's statements pass since 4.11; None here."""

    def wrapper(*arguments: Any, sort: Any = None, **named: Any) -> Any:
        assert sort is None
        return add_statement(*arguments, **named)

    return wrapper


BulkOperationBuilder.add_update = _accept_sort(  # type: ignore[method-assign]
    BulkOperationBuilder.add_update
)
BulkOperationBuilder.add_replace = _accept_sort(  # type: ignore[method-assign]
    BulkOperationBuilder.add_replace
)


def _first_n(values: list[dict[str, Any]]) -> list[Any]:
    """mongomock 4.3 does not know ``$firstN``; the server does since 5.2."""
    return [value["input"] for value in values[: values[0]["n"]]]


aggregate._GROUPING_OPERATOR_MAP["$firstN"] = _first_n


def _set_fields(documents: list[dict[str, Any]], _database: Any, fields: dict[str, Any]) -> Any:
    """mongomock 4.3 retains a field whose new value is missing; the server removes it."""
    evaluate: Any = aggregate._parse_expression
    changed = []
    for document in documents:
        changed.append(dict(document))
        for name, value in fields.items():
            try:
                changed[-1][name] = evaluate(value, document, ignore_missing_keys=True)
            except KeyError:
                changed[-1].pop(name, None)
    return changed


aggregate._PIPELINE_HANDLERS["$set"] = _set_fields


def _index_of_array(handle_array_operator: Any) -> Any:
    """mongomock 4.3 does not know ``$indexOfArray``."""

    def wrapper(parser: Any, operator: str, operands: Any) -> Any:
        if operator != "$indexOfArray":
            return handle_array_operator(parser, operator, operands)
        values, value = (parser.parse(operand) for operand in operands)
        return values.index(value) if value in values else -1

    return wrapper


aggregate._Parser._handle_array_operator = _index_of_array(  # type: ignore[method-assign]
    aggregate._Parser._handle_array_operator
)
