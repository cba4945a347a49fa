"""The fake of the streams of integrations."""

from collections.abc import Sequence

import msgspec

from app.contracts.errors import BusUnavailableError


class FakeEventStreams:
    """The EventStreams port in memory."""

    def __init__(self) -> None:
        self.entries: dict[str, list[tuple[str, str, bytes]]] = {}
        """The id, the type and the event of each entry, by integration."""
        self.broken = False

    async def append(self, alias: str, events: Sequence[tuple[str, bytes]]) -> None:
        if self.broken:
            raise BusUnavailableError
        entries = self.entries.setdefault(alias, [])
        entries += [(event_id, msgspec.json.decode(event)["type"], event) for event_id, event in events]

    async def delete(self, alias: str) -> None:
        if self.broken:
            raise BusUnavailableError
        self.entries.pop(alias, None)
