"""Secrets in MongoDB that all workers share."""

from base64 import b64decode, b64encode
from datetime import UTC, datetime
from secrets import token_bytes

from app.contracts.errors import OperationalError
from models.codec import Document
from models.database import Collection, Database, store_errors
from models.document_codec import DocumentCodec
from models.sealed_fields import secret_layout

SECRET_BYTES = 32


class MongoSecretStore:
    """The SecretStore port on MongoDB.

    Args:
        database: The database.
        codec: Seals the secrets. One of a time without encryption is sealed when it is read.
    """

    def __init__(self, database: Database, codec: DocumentCodec | None = None) -> None:
        self._secrets: Collection = database.collection("flow_secrets")
        self._codec = (codec or DocumentCodec()).of(secret_layout)

    async def secret(self, name: str) -> bytes:
        """Return a secret of 32 bytes, created at the first request.

        Raises:
            OperationalError: It cannot be opened with the keys of the service.
        """
        async with store_errors():
            found = await self._secrets.find_one({"_id": name})
        if found is None:
            found = await self._create(name)
        elif self._codec.reads_clear and isinstance(clear := found["value"], str):
            sealed = {**found}
            if await self._codec.seal([sealed]):
                async with store_errors():
                    await self._secrets.update_one(
                        {"_id": name, "value": clear}, {"$set": {"value": sealed["value"]}}
                    )
        (value,) = await self._codec.decode_many(_value, [found])
        if not isinstance(value, str):
            raise OperationalError(
                f"The secret {name} in flow_secrets cannot be opened: the service lacks its encryption key "
                "(FLOW_ENCRYPTION_KEYS), or its data key in flow_data_keys, or it is not encrypted "
                "(FLOW_ENCRYPTION_REQUIRED)"
            )
        return b64decode(value)

    async def _create(self, name: str) -> Document:
        fresh: Document = {
            "_id": name,
            "value": b64encode(token_bytes(SECRET_BYTES)).decode(),
            "createdAt": datetime.now(UTC),
        }
        await self._codec.seal([fresh])
        del fresh["_id"]
        async with store_errors():
            await self._secrets.update_one({"_id": name}, {"$setOnInsert": fresh}, upsert=True)
            found: Document | None = await self._secrets.find_one({"_id": name})
        if found is None:
            raise LookupError(name)
        return found


def _value(document: Document) -> object:
    return document.get("value")
