"""Definitions in MongoDB, their shape held by Beanie's document: read seldom, as they are cached."""

from typing import Any

import structlog
from msgspec import json
from pymongo.errors import DuplicateKeyError

from app.contracts.definition import FlowDefinition
from app.contracts.errors import FlowStateCorruptionError
from app.contracts.flow import Flow
from models.database import Collection, Database, store_errors
from models.documents import FlowDefinitionDocument

log = structlog.get_logger("definitions")


class MongoDefinitionStore:
    """The DefinitionStore port on MongoDB."""

    def __init__(self, database: Database) -> None:
        self._definitions: Collection = database.collection("flow_definitions")

    async def latest(self, flow_id: str) -> FlowDefinition | None:
        newest = await self._find({"flowId": flow_id}, 1)
        return newest[0] if newest else None

    async def get(self, flow_id: str, version: int) -> FlowDefinition | None:
        found = await self._find({"_id": _key(flow_id, version)}, 1)
        return found[0] if found else None

    async def versions(self, flow_id: str) -> list[FlowDefinition]:
        return await self._find({"flowId": flow_id}, None)

    async def list_flow_ids(self) -> list[str]:
        async with store_errors():
            return sorted(await self._definitions.distinct("flowId"))

    async def list_latest(self, after_flow: str | None, limit: int) -> list[FlowDefinition]:
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
        async with store_errors():
            found = await self._definitions.aggregate(pipeline).to_list(limit)
        readable = []
        for document in found:
            try:
                readable.append(_definition(document))
            except FlowStateCorruptionError as error:  # one must not hide the others
                log.error("unreadable definition", reason=error.details["reason"], flow=document["_id"])
        return readable

    async def publish(self, definition: FlowDefinition) -> bool:
        flow = definition.flow
        document = FlowDefinitionDocument(
            _id=_key(flow.flow, definition.version),
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

    async def _find(self, query: dict[str, Any], limit: int | None) -> list[FlowDefinition]:
        async with store_errors():
            found = await self._definitions.find(query).sort("version", -1).to_list(limit)
        return [_definition(document) for document in found]


def _key(flow_id: str, version: int) -> str:
    return f"{flow_id}:{version}"


def _definition(stored: dict[str, Any]) -> FlowDefinition:
    try:
        document = FlowDefinitionDocument.model_validate(stored)
        flow = json.decode(document.definition, type=Flow)
    except ValueError as refusal:  # both libraries' validation errors are one
        raise FlowStateCorruptionError(
            "-",
            str(stored.get("flowId")),
            f"version {stored.get('version')} of the definition cannot be read ({type(refusal).__name__})",
        ) from None
    return FlowDefinition(
        flow=flow,
        version=document.version,
        published_at=document.created_at,
        published_by=document.created_by,
        source=document.source,
        retired=document.retired,
    )
