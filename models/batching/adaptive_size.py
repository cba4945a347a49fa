"""Adapts the size of batches to the speed of the server."""

MIN_BATCH = 5
"""Smallest batch size, however slow the server."""
COMMAND_BUDGET = 0.2
"""Fraction of the request timeout one command may use."""


class AdaptiveBatchSize:
    """The number of items that the next command may have: as many as fit into its time budget.

    The size follows from the last command. The duration of the quickest command so far counts as the overhead
    of a command, however small, and is not charged to its items. The size starts at ``MIN_BATCH``, returns to
    it after a failure, and at most doubles with each command, so that a slow server never receives a full
    batch unprepared.

    Args:
        max_size: The largest size.
        timeout: The timeout of a request, in seconds; a command may use ``COMMAND_BUDGET`` of it.
    """

    def __init__(self, max_size: int, timeout: float) -> None:
        self._min_size = self.size = min(MIN_BATCH, max_size)
        self._max_size = max_size
        self._budget_seconds = COMMAND_BUDGET * timeout
        self._overhead_seconds = timeout

    def record(self, items: int, seconds: float) -> None:
        """Adapt the size to the duration of a command with so many items."""
        self._overhead_seconds = min(self._overhead_seconds, seconds)
        over = seconds - self._overhead_seconds
        if over:
            fitting = int(items * self._budget_seconds / over)
        else:  # the quickest yet: the share of its items is unknown
            fitting = max(
                self.size, int(items * self._budget_seconds / seconds) if seconds else self._max_size
            )
        self.size = max(self._min_size, min(self._max_size, 2 * self.size, fitting))

    def record_failure(self) -> None:
        """Return to the smallest size, however quickly the command failed."""
        self.size = self._min_size
