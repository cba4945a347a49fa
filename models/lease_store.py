"""Leases in MongoDB, acquired by compare-and-set of one document."""

from datetime import UTC, datetime, timedelta

from pymongo.errors import DuplicateKeyError

from app.contracts.ports.leases import Lease
from models.database import Collection, Database, store_errors

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class MongoLeaseStore:
    """The LeaseStore port on MongoDB."""

    def __init__(self, database: Database) -> None:
        self._leases: Collection = database.collection("flow_leases")

    async def acquire(self, name: str, holder: str, now: datetime, seconds: float) -> Lease | None:
        """Acquire or extend a lease for ``seconds``. Returns None while another holder has it."""
        until = now + timedelta(seconds=seconds)
        async with store_errors():
            held = await self._leases.find_one({"_id": name})
            if held is None:
                first = {"_id": name, "holder": holder, "fence": 1, "until": until}
                try:
                    await self._leases.insert_one(first)
                except DuplicateKeyError:
                    return None
                return Lease(name, holder, 1, until)
            until_then, last = held.get("until"), held.get("fence")
            # A lease that ends too late was acquired by a worker whose clock is ahead; ignore it.
            is_held = isinstance(until_then, datetime) and now < until_then <= now + timedelta(
                seconds=2 * seconds
            )
            if held.get("holder") != holder and is_held:
                return None
            fence = last if isinstance(last, int) else 0
            fence += held.get("holder") != holder
            as_read = {key: held.get(key) for key in ("_id", "holder", "fence", "until")}
            update = {"$set": {"holder": holder, "fence": fence, "until": until}}
            answer = await self._leases.update_one(as_read, update)
        return Lease(name, holder, fence, until) if answer.matched_count else None

    async def renew(self, lease: Lease, now: datetime, seconds: float) -> Lease | None:
        """Extend a held lease to ``seconds`` from ``now``. Returns None if another holder has it."""
        until = now + timedelta(seconds=seconds)
        async with store_errors():
            answer = await self._leases.update_one(_held_by(lease), {"$set": {"until": until}})
        return Lease(lease.name, lease.holder, lease.fence, until) if answer.matched_count else None

    async def release(self, lease: Lease) -> None:
        """Release a lease, so that another holder can acquire it at once."""
        async with store_errors():
            await self._leases.update_one(_held_by(lease), {"$set": {"until": _LONG_AGO}})


def _held_by(lease: Lease) -> dict[str, object]:
    return {"_id": lease.name, "holder": lease.holder, "fence": lease.fence}
