"""The bounded queue of packets that wait for one client."""

import asyncio
from collections.abc import Callable
from typing import Any

from realtime.gateway.limits import MAX_QUEUED_BYTES, MAX_QUEUED_PACKETS


class OutgoingQueue(asyncio.Queue[Any]):
    """Packets that wait for a client.

    Attributes:
        overflow: Called once when the queue exceeds ``MAX_QUEUED_PACKETS`` or ``MAX_QUEUED_BYTES``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.overflow: Callable[[], None] | None = None
        self._bytes = 0

    def _put(self, item: Any) -> None:
        super()._put(item)
        self._bytes += _size_bytes(item)
        if self.overflow is not None and (
            self.qsize() > MAX_QUEUED_PACKETS or self._bytes > MAX_QUEUED_BYTES
        ):
            overflow, self.overflow = self.overflow, None
            overflow()

    def _get(self) -> Any:
        item = super()._get()
        self._bytes -= _size_bytes(item)
        return item

    def clear(self) -> None:
        """Discard all queued packets."""
        while not self.empty():
            self.get_nowait()
            self.task_done()


def _size_bytes(packet: Any) -> int:
    data = getattr(packet, "data", None)
    return len(data) if isinstance(data, (str, bytes)) else 0
