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
    """Leases: of all who ask, one does the work, until it does not ask any more."""

    async def take(self, name: str, holder: str, now: datetime, seconds: float) -> Lease | None:
        """The lease, taken or held on to for ``seconds``; None while somebody else has it."""

    async def renew(self, lease: Lease, now: datetime, seconds: float) -> Lease | None:
        """The held lease, prolonged to ``seconds`` from now; None if somebody else took it meanwhile."""

    async def give_up(self, lease: Lease) -> None:
        """Let somebody else have it at once."""
