"""Reading Server-Sent Events."""

import asyncio
import json
from typing import Any

import httpx


class Stream:
    """The events of one answer."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> tuple[str, str | None, Any]:
        """Name, id and data of the next event."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(20):
            async for line in self._lines:
                if not line and fields:
                    break
                name, separator, value = line.partition(": ")
                if separator and name:
                    fields[name] = value
            else:
                raise EOFError
        return fields["event"], fields.get("id"), json.loads(fields["data"])
