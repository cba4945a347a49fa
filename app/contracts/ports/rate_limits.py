"""The port of the rates of requests, shared by all workers."""

from collections.abc import Mapping
from typing import Literal, Protocol

from msgspec import Struct

RateSubject = Literal["user", "service", "address", "failure", "change"]


class RateKey(Struct, frozen=True):
    """A budget of requests: ``per_minute`` at once after a quiet minute, and regained at that rate.

    ``subject`` and ``name`` say whose it is: requests of a user, of a service or of the network of an
    address, failed authentications of such a network, or changes that a user requests.
    """

    subject: RateSubject
    name: str
    per_minute: int


class CountedRequests(Struct, frozen=True):
    """Requests of a worker in the last ``seconds``, in which their budget was regained, too."""

    count: int
    seconds: float = 0.0


class RateCounters(Protocol):
    """The use of budgets by all workers together."""

    async def add(self, requests: Mapping[RateKey, CountedRequests]) -> Mapping[RateKey, float]:
        """Add requests of this worker, and return the use of each budget by all workers.

        The use is the number of requests that the budget has not regained yet; it may exceed ``per_minute``.
        With no requests the use is only read.

        Raises:
            BusUnavailableError: Redis does not answer; some of the requests may have been added.
        """
