"""The port of the rates of requests, shared by all workers."""

from collections.abc import Mapping
from typing import Literal, Protocol

from msgspec import Struct

RateSubject = Literal["user", "address", "service"]


class RateKey(Struct, frozen=True):
    """The subject of a rate: a user, an address of a network, or an API key or service."""

    subject: RateSubject
    name: str


class RateCounters(Protocol):
    """Counts requests of all workers together in windows of a minute."""

    async def add(self, counts: Mapping[RateKey, int]) -> Mapping[RateKey, float]:
        """Add requests, and return the load of each key over the last minute, as requests in a minute.

        Raises:
            BusUnavailableError: Redis does not answer; the caller then counts alone.
        """
