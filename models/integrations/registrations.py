"""Registered integrations and their health in MongoDB."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import structlog
from msgspec import UNSET, Struct, ValidationError, convert, structs, to_builtins
from pymongo.errors import DuplicateKeyError

from app.contracts.integration import Heartbeat, Integration, IntegrationHealth
from app.kit.casing import camel_case, snake_case
from models.codec import Document
from models.database import ANSWER_SECONDS, Collection, Database, store_errors
from models.document_codec import DocumentCodec
from models.sealed_fields import integration_layout

log = structlog.get_logger("integrations")

MAX_WINDOW_LEAD = 5
"""Seconds by which another worker's clock may be ahead; a later window was made by a wrong clock."""
COUNTS = frozenset({"delivered", "failed", "internal", "window", "used"})
"""Members of a health record that have commands of their own."""
T = TypeVar("T", bound=Struct)


class MongoIntegrationStore:
    """The IntegrationStore port on MongoDB.

    Args:
        database: The database.
        codec: Seals the secrets of webhooks.
    """

    def __init__(self, database: Database, codec: DocumentCodec | None = None) -> None:
        self._codec = (codec or DocumentCodec()).of(integration_layout)
        self._integrations: Collection = database.collection("flow_integrations")
        self._health: Collection = database.collection("flow_integration_health")

    async def list_all(self) -> list[Integration]:
        """Return all registrations, by alias. Unreadable ones are logged and left out."""
        return await self._list(self._integrations, Integration)

    async def get(self, alias: str) -> Integration | None:
        """Return a registration, None if there is none."""
        async with store_errors(ANSWER_SECONDS):
            document = await self._integrations.find_one({"_id": alias})
        if document is None:
            return None
        return (await self._codec.decode_many(partial(_decode, shape=Integration), [document]))[0]

    async def put(self, integration: Integration, expected_revision: int | None) -> bool:
        """Store a registration, whose stored heartbeat stays; returns false if another one is stored."""
        (document,) = await self._codec.encode_many(_encode, [integration])
        alias = document.pop("_id")
        async with store_errors(ANSWER_SECONDS):
            if expected_revision is None:
                health = _encode(IntegrationHealth(alias=alias))
                del health["_id"]
                await self._health.update_one({"_id": alias}, {"$setOnInsert": health}, upsert=True)
                try:
                    await self._integrations.insert_one({"_id": alias, **document})
                except DuplicateKeyError:
                    return False
                return True
            document.pop("heartbeat", None)
            as_read = {"_id": alias, "revision": expected_revision}
            absent = _absent_members(integration) - {"heartbeat"}
            answer = await self._integrations.update_one(as_read, _replacement(document, absent))
        return answer.matched_count == 1

    async def put_heartbeat(self, alias: str, heartbeat: Heartbeat) -> bool:
        """Store the last report of an integration; its revision stays."""
        stored = to_builtins(heartbeat, builtin_types=(datetime,))
        async with store_errors(ANSWER_SECONDS):
            answer = await self._integrations.update_one({"_id": alias}, {"$set": {"heartbeat": stored}})
        return answer.matched_count == 1

    async def delete(self, alias: str) -> bool:
        """Remove a registration and its health."""
        async with store_errors(ANSWER_SECONDS):
            answer = await self._integrations.delete_one({"_id": alias})
            await self._health.delete_one({"_id": alias})
        return answer.deleted_count == 1

    async def list_health(self) -> list[IntegrationHealth]:
        """Return the health of all integrations, by alias."""
        return await self._list(self._health, IntegrationHealth)

    async def put_health(self, health: IntegrationHealth) -> bool:
        """Replace the breaker members of a health record of the revision before."""
        changed = {name: value for name, value in _encode(health).items() if name not in COUNTS}
        as_read = {"_id": changed.pop("_id"), "revision": health.revision - 1}
        async with store_errors(ANSWER_SECONDS):
            answer = await self._health.update_one(as_read, _replacement(changed, _absent_members(health)))
        return answer.matched_count == 1

    async def count(self, alias: str, *, delivered: int = 0, failed: int = 0, internal: int = 0) -> None:
        """Add to the counts of an integration."""
        counts = {"delivered": delivered, "failed": failed, "internal": internal}
        added = {name: count for name, count in counts.items() if count}
        if added:
            async with store_errors(ANSWER_SECONDS):
                await self._health.update_one({"_id": alias}, {"$inc": added})

    async def take_rate(self, alias: str, second: int, wanted: int, limit: int) -> int:
        """Take requests from the rate of a second, of all workers together."""
        wanted, window = min(wanted, limit), second
        async with store_errors(ANSWER_SECONDS):
            while wanted > 0:
                has_room = {"_id": alias, "window": window, "used": {"$lte": limit - wanted}}
                answer = await self._health.update_one(has_room, {"$inc": {"used": wanted}})
                if answer.matched_count:
                    return wanted
                found = await self._health.find_one({"_id": alias}, {"window": 1, "used": 1})
                if found is None:
                    return 0
                window = found["window"]
                if second <= window <= second + MAX_WINDOW_LEAD:
                    wanted = min(wanted, limit - found["used"])
                    continue
                as_read = {"_id": alias, "window": window, "used": found["used"]}
                opened = {"$set": {"window": second, "used": wanted}}
                answer = await self._health.update_one(as_read, opened)
                if answer.matched_count:
                    return wanted
                window = second
        return 0

    async def _list(self, collection: Collection, shape: type[T]) -> list[T]:
        async with store_errors(ANSWER_SECONDS):
            documents = await collection.find({}).to_list(None)
        found = await self._codec.decode_many(partial(_decode, shape=shape), documents)
        return sorted((each for each in found if each is not None), key=_alias)


def _alias(stored: Any) -> str:
    return str(stored.alias)


def _encode(value: Struct) -> Document:
    document: Document = _renamed(to_builtins(value, builtin_types=(datetime,)), camel_case)
    return {"_id": document.pop("alias"), **document}


def _decode(document: Document, shape: type[T]) -> T | None:
    members = _renamed({name: value for name, value in document.items() if name != "_id"}, snake_case)
    try:
        return convert({**members, "alias": document["_id"]}, shape)
    except ValidationError as refusal:
        log.error("unreadable registration", alias=document["_id"], reason=str(refusal))
        return None


def _absent_members(value: Struct) -> set[str]:
    absent = [field.name for field in structs.fields(value) if getattr(value, field.name) is UNSET]
    return {camel_case(name) for name in absent}


def _replacement(document: Document, absent: set[str]) -> Document:
    removed = {"$unset": dict.fromkeys(sorted(absent), "")} if absent else {}
    return {"$set": document, **removed}


def _renamed(value: Any, rename: Callable[[str], str]) -> Any:
    """Rename the members of documents, also of nested ones; all of them are members of structs."""
    if isinstance(value, dict):
        return {rename(name): _renamed(member, rename) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(member, rename) for member in value]
    return value
