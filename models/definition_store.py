"""Definitions in MongoDB, in the shape of Beanie's document. They are cached, so reads are rare."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from msgspec import json
from pymongo.errors import DuplicateKeyError

from app.contracts.definition import FlowDefinition, VersionInfo
from app.contracts.errors import DefinitionCorruptionError
from app.contracts.flow import Flow
from app.contracts.pages import Page
from app.kit.numbers import MAX_INTEGER
from models.database import Collection, Database, store_errors
from models.paging import BATCH_DOCUMENTS, DocumentPage
from models.stored_definition import StoredDefinition

log = structlog.get_logger("definitions")


class MongoDefinitionStore:
    """The DefinitionStore port on MongoDB."""

    def __init__(self, database: Database) -> None:
        self._definitions: Collection = database.collection("flow_definitions")

    async def latest(self, flow_id: str) -> FlowDefinition | None:
        """Return the newest version, also a retired one."""
        newest = await self._find({"flowId": flow_id}, 1)
        return newest[0] if newest else None

    async def get(self, flow_id: str, version: int) -> FlowDefinition | None:
        """Return one version."""
        found = await self._find({"_id": _key(flow_id, version)}, 1)
        return found[0] if found else None

    async def versions(
        self, flow_id: str, before: int | None = None, limit: int | None = None
    ) -> list[VersionInfo]:
        """Return the versions before ``before``, newest first, including unreadable ones."""
        query: dict[str, Any] = {"flowId": flow_id}
        if before is not None:
            query["version"] = {"$lt": min(before, MAX_INTEGER)}
        async with store_errors():
            cursor = self._definitions.find(query, {"definition": 0}).sort("version", -1).limit(limit or 0)
            found = await cursor.to_list(None)
        return [_info(document) for document in found]

    async def list_flow_ids(self) -> list[str]:
        """Return the slugs of all flows that were ever published."""
        async with store_errors():
            return sorted(await self._definitions.distinct("flowId"))

    async def list_latest(self, after_flow: str | None, limit: int) -> Page[FlowDefinition]:
        """Return the newest version of every flow that is not retired, by slug, after ``after_flow``."""
        pipeline: list[dict[str, Any]] = [
            {"$sort": {"flowId": 1, "version": -1}},
            {"$group": {"_id": "$flowId", "newest": {"$first": "$$ROOT"}}},
            {"$match": {"newest.retired": False}},
            {"$sort": {"_id": 1}},
            {"$limit": limit},
            {"$replaceRoot": {"newRoot": "$newest"}},
        ]
        if after_flow is not None:
            pipeline.insert(0, {"$match": {"flowId": {"$gt": after_flow}}})
        page = DocumentPage(limit)
        async with store_errors():
            await page.read(self._definitions.aggregate(pipeline, batchSize=BATCH_DOCUMENTS))
        readable = []
        for document in page.documents:
            try:
                readable.append(_definition(document))
            except DefinitionCorruptionError as error:  # one unreadable definition must not hide the others
                log.error("unreadable definition", reason=error.details["reason"], flow=document["_id"])
        return Page(readable, page.documents[-1]["flowId"] if page.full else None)

    async def publish(self, definition: FlowDefinition) -> bool:
        """Store a new version. Returns False if that version exists already."""
        flow = definition.flow
        document = StoredDefinition(
            id=_key(flow.flow, definition.version),
            flow_id=flow.flow,
            version=definition.version,
            definition=json.encode(flow).decode(),
            created_at=definition.published_at,
            created_by=definition.published_by,
            source=definition.source,
            retired=definition.retired,
        )
        async with store_errors():
            try:
                await self._definitions.insert_one(document.model_dump(by_alias=True))
            except DuplicateKeyError:
                return False
        return True

    async def _find(self, query: dict[str, Any], limit: int) -> list[FlowDefinition]:
        async with store_errors():
            found = await self._definitions.find(query).sort("version", -1).to_list(limit)
        return [_definition(document) for document in found]


def _key(flow_id: str, version: int) -> str:
    return f"{flow_id}:{version}"


def _definition(stored: dict[str, Any]) -> FlowDefinition:
    with _reading(stored):
        document = StoredDefinition.model_validate(stored)
        return FlowDefinition(
            flow=json.decode(document.definition, type=Flow),
            version=document.version,
            published_at=document.created_at,
            published_by=document.created_by,
            source=document.source,
            retired=document.retired,
        )


def _info(stored: dict[str, Any]) -> VersionInfo:
    with _reading(stored):
        document = StoredDefinition.model_validate({**stored, "definition": ""})
        return VersionInfo(
            flow_id=document.flow_id,
            version=document.version,
            published_at=document.created_at,
            published_by=document.created_by,
            source=document.source,
            retired=document.retired,
        )


@contextmanager
def _reading(stored: dict[str, Any]) -> Iterator[None]:
    """Raise DefinitionCorruptionError for what cannot be read."""
    try:
        yield
    except ValueError as refusal:  # the base of the validation errors of both libraries
        raise DefinitionCorruptionError(
            str(stored.get("flowId")), stored.get("version"), type(refusal).__name__
        ) from None
