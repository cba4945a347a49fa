"""The limits of lasting connections (sockets and event streams) on this worker."""

from collections import Counter

from app.contracts.callers import Caller
from app.contracts.errors import RateLimitedError
from app.kit.client_address import counted_network
from app.services.rates.request_limits import SERVICE_FACTOR

RETRY_AFTER_SECONDS = 5.0


class OpenConnection:
    """A connection that is counted until it is closed."""

    def __init__(self, counts: list[tuple[Counter[str], str]]) -> None:
        self._counts = counts
        for counter, name in counts:
            counter[name] += 1

    def close(self) -> None:
        """Count the connection no more; it may be closed twice."""
        counts, self._counts = self._counts, []
        for counter, name in counts:
            counter[name] -= 1
            if not counter[name]:
                del counter[name]


class ConnectionLimits:
    """Counts the connections of each user and of each address."""

    def __init__(self, per_user: int, per_address: int) -> None:
        self._per_user = per_user
        self._per_address = per_address
        self._users: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return the number of users and addresses that have connections."""
        return len(self._users) + len(self._addresses)

    def open(self, caller: Caller, address: str) -> OpenConnection:
        """Count a connection. Raises RateLimitedError if it is one too many."""
        factor = SERVICE_FACTOR if caller.acts_for_all else 1
        limit = self._per_user * factor
        if self._users[caller.user_id] >= limit:
            raise RateLimitedError(
                f"This user has {limit} connections on this worker, the maximum; close some of them",
                RETRY_AFTER_SECONDS,
            )
        counts = [(self._users, caller.user_id)]
        network = counted_network(address)
        if network is not None:
            if self._addresses[network] >= self._per_address:
                raise RateLimitedError(
                    f"This address has {self._per_address} connections on this worker, the maximum",
                    RETRY_AFTER_SECONDS,
                )
            counts.append((self._addresses, network))
        return OpenConnection(counts)
