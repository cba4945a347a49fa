"""The data keys of users in an erasure, on all workers."""

from collections.abc import Sequence
from datetime import datetime

import structlog

from app.contracts.errors import BusUnavailableError
from app.contracts.events import EVERYONE, Event, Gap, Topic, UserErased
from app.contracts.ports.bus import EventBus
from app.contracts.ports.keys import DestroyedKey, UserKeys

log = structlog.get_logger("personal-data")


class ErasureKeys:
    """Retires and destroys data keys, and has all workers forget them.

    Args:
        keys: The data keys; None if the data of users is not encrypted: then there is nothing to destroy.
        bus: Connects the workers. A worker that an event does not reach forgets keys after a while, and must
            read them again before it commits the first change of an epoch.
    """

    def __init__(self, keys: UserKeys | None, bus: EventBus) -> None:
        self._keys = keys
        self._bus = bus
        bus.subscribe(self._on_event)
        bus.on_gap(self._on_gap)

    async def retire(self, user_id: str) -> None:
        """Let no later change use the present data key of a user. Raises StoreUnavailableError."""
        if self._keys is not None:
            await self._keys.retire(user_id)
            await self._publish(user_id)

    async def destroy(self, user_id: str, at: datetime, by: str) -> Sequence[str]:
        """Destroy the retired data keys of a user; return the ids of all that were ever destroyed.

        Raises:
            StoreUnavailableError: The store does not respond.
        """
        if self._keys is None:
            return ()
        destroyed = await self._keys.destroy(user_id, at, by)
        await self._publish(user_id)
        return destroyed

    async def last_destroyed(self, user_id: str) -> DestroyedKey | None:
        """Return the data key of a user that was destroyed last. Raises StoreUnavailableError."""
        return None if self._keys is None else await self._keys.last_destroyed(user_id)

    async def _publish(self, user_id: str) -> None:
        try:
            await self._bus.publish([UserErased(user_id)])
        except BusUnavailableError:
            log.warning("erasure not published")

    def _on_event(self, _: Topic, event: Event) -> None:
        if isinstance(event, UserErased) and self._keys is not None:
            self._keys.forget(event.user_id)

    def _on_gap(self, gap: Gap) -> None:
        if gap.concerns(EVERYONE) and self._keys is not None:
            self._keys.forget_all()
