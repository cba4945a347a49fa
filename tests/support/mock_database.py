"""A database in memory: mongomock, with what it lacks of a server."""

import uuid
from typing import Any

from mongomock import aggregate
from mongomock.collection import BulkOperationBuilder
from mongomock_motor import AsyncMongoMockClient

from models.database import Database
from models.indexes import INDEXES


async def mock_database() -> Database:
    """Make a prepared database."""
    database = _MockDatabase(AsyncMongoMockClient(tz_aware=True), f"test_{uuid.uuid4().hex}")
    await database.prepare()
    return database


class _MockDatabase(Database):
    """Creates the declared indexes itself: Beanie, which takes five times as long, creates the same."""

    async def _create_indexes(self) -> None:
        for name, declared in INDEXES.items():
            if declared:
                await self.collection(name).create_indexes(list(declared))


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
