"""Reserved entities in MongoDB."""

from datetime import datetime
from hashlib import blake2b

from pymongo.errors import DuplicateKeyError

from models.database import Collection, Database, store_errors


class MongoEntityReservations:
    """The EntityReservations port on MongoDB: one document for each request, removed by a TTL."""

    def __init__(self, database: Database) -> None:
        self._reservations: Collection = database.collection("flow_reservations")

    async def reserve(self, request: str, entity_id: str, now: datetime) -> str:
        """Reserve ``entity_id`` for a request. Returns the entity that the request has."""
        # A digest, so that the collection has no ids of users.
        key = blake2b(request.encode(), digest_size=20).hexdigest()
        async with store_errors():
            try:
                await self._reservations.insert_one({"_id": key, "entityId": entity_id, "reservedAt": now})
            except DuplicateKeyError:
                found = await self._reservations.find_one({"_id": key})
                return entity_id if found is None else str(found["entityId"])
        return entity_id
