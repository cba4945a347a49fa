"""The other workers, as far as one hears of them."""

import time
from collections.abc import Iterator

GONE_SECONDS = 15.0
"""A worker that was not heard of for so long is taken for gone."""
DEAD_SECONDS = 3600.0
"""One that was gone for so long does not come back."""


class Peers:
    """Knows when each was heard last, in seconds since 1970. One that is gone may be dead, or cut off, and
    come back."""

    def __init__(self) -> None:
        self.present: dict[str, float] = {}
        self._gone: dict[str, float] = {}

    def heard(self, worker: str) -> float | None:
        """A worker was heard; if it was taken for gone, when it was heard before."""
        self.present[worker] = time.time()
        return self._gone.pop(worker, None)

    def forget(self, worker: str) -> None:
        """It said goodbye."""
        self.present.pop(worker, None)
        self._gone.pop(worker, None)

    def hear_anew(self) -> None:
        """This worker was deaf itself: nobody was silent for that."""
        self.present = dict.fromkeys(self.present, time.time())

    def take_gone(self) -> Iterator[tuple[str, float]]:
        """The workers that are gone from now on, and when each sent its last message."""
        for worker, heard_at in list(self.present.items()):
            if time.time() - heard_at > GONE_SECONDS:
                self._gone[worker] = self.present.pop(worker)
                yield worker, heard_at

    def take_dead(self) -> Iterator[str]:
        """The workers that will not come back."""
        for worker, heard_at in list(self._gone.items()):
            if time.time() - heard_at > DEAD_SECONDS:
                del self._gone[worker]
                yield worker
