"""The limit of changes that one user may request through this worker."""

import time
from collections.abc import Callable

from app.contracts.commands import Origin
from app.contracts.errors import RateLimitedError
from app.kit.token_bucket import TokenBucket

SERVICE_FACTOR = 20
"""Services and administrators may request so many times as much, as they act for many users."""
MAX_IDLE_BUCKETS = 10_000
"""Beyond so many buckets the full ones are dropped: they carry no information."""


class ChangeLimit:
    """Counts requests to change a state by caller, also refused ones, which leave a record too.

    Trusted callers in this process are not limited.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: dict[tuple[str, bool], TokenBucket] = {}
        self._drop_at = MAX_IDLE_BUCKETS

    def __len__(self) -> int:
        """Return the number of users that are counted."""
        return len(self._buckets)

    def take(self, origin: Origin) -> None:
        """Count a request.

        Raises:
            RateLimitedError: It is one too many, and is not counted.
        """
        caller = origin.caller
        if caller.trusted:
            return
        acts_for_many = caller.acts_for_all
        key = (caller.user_id, acts_for_many)
        bucket = self._buckets.get(key)
        if bucket is None:
            self._drop_idle()
            burst = float(self._per_minute * (SERVICE_FACTOR if acts_for_many else 1))
            bucket = self._buckets[key] = TokenBucket(burst / 60, burst, self._clock)
        seconds = bucket.take()
        if seconds:
            raise RateLimitedError("This user requests changes too often; wait and try again", seconds)

    def _drop_idle(self) -> None:
        if len(self._buckets) < self._drop_at:
            return
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if not bucket.full}
        self._drop_at = max(MAX_IDLE_BUCKETS, 2 * len(self._buckets))
