"""The lease of the jobs that one worker does for all."""

import asyncio
import os
import socket
from collections.abc import Callable

import structlog

from app.contracts.errors import FlowError
from app.contracts.ports.clock import Clock
from app.contracts.ports.leases import Lease, LeaseStore
from app.kit.ids import new_id
from config.log import describe

log = structlog.get_logger("lease")

LEASE_SECONDS = 3.0
RENEW_EVERY_SECONDS = 1.0


class LeaseHolder:
    """A worker that competes for a lease, renews it while it lives, and knows when it has lost it."""

    def __init__(
        self, store: LeaseStore, clock: Clock, name: str, may_hold: Callable[[], bool] = lambda: True
    ) -> None:
        """Create a holder that has no lease yet.

        Args:
            store: The leases of all workers.
            clock: The time by which leases expire.
            name: The name of the lease.
            may_hold: Returns false while this worker must leave the lease to others.
        """
        self._store = store
        self._clock = clock
        self._name = name
        self._may_hold = may_hold
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{new_id()}"
        self._lease: Lease | None = None
        self._until = 0.0

    @property
    def held(self) -> bool:
        """True while this worker has the lease.

        Read it again between pieces of work: a worker that slept for longer than its lease must stop.
        """
        in_time = asyncio.get_running_loop().time() < self._until
        return self._lease is not None and in_time and self._may_hold()

    async def run(self) -> None:
        """Acquire and renew the lease until cancelled."""
        while True:
            try:
                if self._may_hold():
                    await self.acquire()
                else:
                    await self.release()
            except FlowError as error:
                log.warning("lease renewal failed", code=error.code)
            except Exception as error:  # noqa: BLE001 - without it no worker sweeps any more
                log.error("lease renewal failed", **describe(error))
            await asyncio.sleep(RENEW_EVERY_SECONDS)

    async def acquire(self) -> None:
        """Acquire or renew the lease, unless another worker has it."""
        requested_at = asyncio.get_running_loop().time()
        lease = None
        if self._lease is not None:
            lease = await self._store.renew(self._lease, self._clock.now(), LEASE_SECONDS)
        if lease is None:
            lease = await self._store.acquire(self._name, self._holder, self._clock.now(), LEASE_SECONDS)
        if lease is not None and (self._lease is None or lease.fence != self._lease.fence):
            log.debug("lease acquired", work=lease.name, fence=lease.fence)
        self._lease = lease
        self._until = requested_at + LEASE_SECONDS

    async def release(self) -> None:
        """Let another worker acquire the lease at once."""
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                await self._store.release(lease)
            except FlowError:
                log.warning("lease release failed, it expires by itself")
