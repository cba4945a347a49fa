"""Secrets in MongoDB that all workers share."""

from base64 import b64decode, b64encode
from datetime import UTC, datetime
from secrets import token_bytes

from models.database import Collection, Database, store_errors

SECRET_BYTES = 32


class MongoSecretStore:
    """The SecretStore port on MongoDB."""

    def __init__(self, database: Database) -> None:
        self._secrets: Collection = database.collection("flow_secrets")

    async def secret(self, name: str) -> bytes:
        """Return a secret of 32 bytes, created at the first request."""
        fresh = {"value": b64encode(token_bytes(SECRET_BYTES)).decode(), "createdAt": datetime.now(UTC)}
        async with store_errors():
            await self._secrets.update_one({"_id": name}, {"$setOnInsert": fresh}, upsert=True)
            found = await self._secrets.find_one({"_id": name})
        if found is None:
            raise LookupError(name)
        return b64decode(found["value"])
