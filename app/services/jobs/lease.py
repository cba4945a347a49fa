"""The lease of the work that one worker does for all."""

import asyncio
import os
import socket
from collections.abc import Callable

import structlog

from app.contracts.errors import FlowError
from app.contracts.ports.clock import Clock
from app.contracts.ports.leases import Lease, LeaseStore
from app.services.states.committer import new_id
from config.log import describe

log = structlog.get_logger("lease")

HELD_SECONDS = 3.0
ASK_EVERY_SECONDS = 1.0


class LeaseHolder:
    """One worker that asks for a lease, holds on to it while it lives, and knows when it has lost it."""

    def __init__(
        self, store: LeaseStore, clock: Clock, name: str, may_hold: Callable[[], bool] = lambda: True
    ) -> None:
        """``may_hold``: False while this worker must leave the lease to others."""
        self._store = store
        self._clock = clock
        self._name = name
        self._may_hold = may_hold
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{new_id()}"
        self._lease: Lease | None = None
        self._until = 0.0

    @property
    def held(self) -> bool:
        """True while this worker holds it. Asked again between pieces of work: a worker that slept for
        longer than its lease must not go on."""
        in_time = asyncio.get_running_loop().time() < self._until
        return self._lease is not None and in_time and self._may_hold()

    async def run(self) -> None:
        """Ask, again and again, until cancelled."""
        while True:
            try:
                if self._may_hold():
                    await self.ask()
                else:
                    await self.give_up()
            except FlowError as error:
                log.warning("lease not asked for", code=error.code)
            except Exception as error:  # noqa: BLE001 - without it no worker sweeps any more
                log.error("lease not asked for", **describe(error))
            await asyncio.sleep(ASK_EVERY_SECONDS)

    async def ask(self) -> None:
        """Take the lease, or hold on to it, if nobody else has it."""
        asked = asyncio.get_running_loop().time()
        lease = None
        if self._lease is not None:
            lease = await self._store.renew(self._lease, self._clock.now(), HELD_SECONDS)
        if lease is None:
            lease = await self._store.take(self._name, self._holder, self._clock.now(), HELD_SECONDS)
        if lease is not None and (self._lease is None or lease.fence != self._lease.fence):
            log.debug("lease taken", work=lease.name, fence=lease.fence)
        self._lease = lease
        self._until = asked + HELD_SECONDS

    async def give_up(self) -> None:
        """Let another worker take it at once."""
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                await self._store.give_up(lease)
            except FlowError:
                log.warning("lease not given up; it ends by itself")
