"""Reports of inconsistent states in MongoDB, for every worker's statistics."""

from collections.abc import Sequence
from datetime import datetime

from pymongo.errors import DuplicateKeyError

from models.database import Collection, Database, store_errors


class MongoCorruptionReports:
    """The CorruptionReports port on MongoDB."""

    def __init__(self, database: Database) -> None:
        self._reports: Collection = database.collection("flow_corruptions")

    async def report(self, key: str, reason: str, now: datetime) -> bool:
        """Store a finding. Returns False if the state is reported already."""
        async with store_errors():
            try:
                await self._reports.insert_one({"_id": key, "reason": reason, "foundAt": now})
            except DuplicateKeyError:
                return False
        return True

    async def withdraw(self, keys: Sequence[str]) -> None:
        """Remove the findings of consistent states."""
        if keys:
            async with store_errors():
                await self._reports.delete_many({"_id": {"$in": list(keys)}})

    async def list_reasons(self, limit: int) -> dict[str, str]:
        """Return the reported states with the reasons, oldest first."""
        async with store_errors():
            found = await self._reports.find({}).sort("foundAt", 1).limit(limit).to_list(limit)
        return {document["_id"]: str(document.get("reason", "")) for document in found}
