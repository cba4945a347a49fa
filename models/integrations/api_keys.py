"""API keys of integrations in MongoDB."""

from datetime import datetime

import structlog
from msgspec import UNSET, ValidationError, convert, to_builtins

from app.contracts.integration import ApiKey
from app.kit.casing import camel_case, snake_case
from models.codec import Document
from models.database import ANSWER_SECONDS, Collection, Database, store_errors
from models.document_codec import DocumentCodec
from models.sealed_fields import api_key_layout

log = structlog.get_logger("integrations")


class MongoApiKeyStore:
    """The ApiKeyStore port on MongoDB: one document for each key, removed by a TTL after its end.

    Args:
        database: The database.
        codec: Seals the hashes.
    """

    def __init__(self, database: Database, codec: DocumentCodec | None = None) -> None:
        self._codec = (codec or DocumentCodec()).of(api_key_layout)
        self._keys: Collection = database.collection("flow_api_keys")

    async def add(self, key: ApiKey) -> None:
        """Store a new key."""
        (document,) = await self._codec.encode_many(_encode, [key])
        async with store_errors(ANSWER_SECONDS):
            await self._keys.insert_one(document)

    async def get(self, key_id: str) -> ApiKey | None:
        """Return a key, None if there is none."""
        async with store_errors(ANSWER_SECONDS):
            document = await self._keys.find_one({"_id": key_id})
        return None if document is None else (await self._codec.decode_many(_decode, [document]))[0]

    async def of_integration(self, alias: str) -> list[ApiKey]:
        """Return the keys of an integration, oldest first. Unreadable ones are logged and left out."""
        async with store_errors(ANSWER_SECONDS):
            documents = await self._keys.find({"alias": alias}).to_list(None)
        found = [key for key in await self._codec.decode_many(_decode, documents) if key is not None]
        return sorted(found, key=lambda key: (key.created_at, key.id))

    async def revoke(self, alias: str, key_id: str, at: datetime) -> bool:
        """Revoke a key of an integration."""
        async with store_errors(ANSWER_SECONDS):
            found = await self._keys.find_one({"_id": key_id})
            if found is None or found.get("alias") != alias or found.get("revokedAt") is not None:
                return False
            # By the id alone: the embedded server uses no index for more conditions. And not by a command
            # that returns the document: there it may return one that another command has changed since.
            revoked = {"$min": {"revokedAt": at, "endsAt": at}}
            answer = await self._keys.update_one({"_id": key_id}, revoked)
        return answer.modified_count == 1

    async def note_use(self, key_id: str, at: datetime) -> None:
        """Store the time of the last use, unless a later one is stored."""
        async with store_errors(ANSWER_SECONDS):
            await self._keys.update_one({"_id": key_id}, {"$max": {"lastUsedAt": at}})

    async def delete_of(self, alias: str) -> int:
        """Remove all keys of an integration, and return their number."""
        async with store_errors(ANSWER_SECONDS):
            answer = await self._keys.delete_many({"alias": alias})
        return int(answer.deleted_count)


def _encode(key: ApiKey) -> Document:
    members = to_builtins(key, builtin_types=(datetime,))
    document = {camel_case(name): value for name, value in members.items() if name != "id"}
    if key.expires_at is not UNSET:
        document["endsAt"] = key.expires_at
    return {"_id": key.id, **document}


def _decode(document: Document) -> ApiKey | None:
    members = {snake_case(name): value for name, value in document.items() if value is not None}
    members.pop("ends_at", None)
    key_id = members.pop("_id", None)
    try:
        return convert({**members, "id": key_id}, ApiKey)
    except ValidationError:  # without the reason, which can quote the document
        log.error("stored api key unreadable", key=str(key_id)[:64])
        return None
