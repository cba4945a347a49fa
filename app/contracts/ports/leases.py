"""The port of the lease store."""

from datetime import datetime
from typing import Protocol

from msgspec import Struct


class Lease(Struct, frozen=True):
    """A held lease. ``fence`` grows with every holder."""

    name: str
    holder: str
    fence: int
    until: datetime


class LeaseStore(Protocol):
    """Leases: of all workers, one holds a lease and does its work, until it stops renewing it."""

    async def acquire(self, name: str, holder: str, now: datetime, seconds: float) -> Lease | None:
        """Acquire or extend a lease for ``seconds``. Returns None while another holder has it."""

    async def renew(self, lease: Lease, now: datetime, seconds: float) -> Lease | None:
        """Extend a held lease to ``seconds`` from ``now``. Returns None if another holder has it."""

    async def release(self, lease: Lease) -> None:
        """Release a lease, so that another holder can acquire it at once."""
