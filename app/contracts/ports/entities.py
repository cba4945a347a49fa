"""The port of reserved entities."""

from datetime import datetime
from typing import Protocol


class EntityReservations(Protocol):
    """Remembers the new entity that a request got, for as long as requests are recognised when repeated."""

    async def reserve(self, request: str, entity_id: str, now: datetime) -> str:
        """Reserve ``entity_id`` for a request, unless it has another one already.

        Args:
            request: A text that identifies the flow, the user and the request.
            entity_id: A new entity.
            now: The present time.

        Returns:
            The entity of the request; of concurrent calls, all get the same one.

        Raises:
            StoreUnavailableError: The store does not answer.
        """
