"""Bounds of processor time that hold on any machine, also under the measurement of coverage.

They find what hangs: without its bound each of these takes minutes, or never ends. How long something takes
is measured by ``python -m bench``, not by tests.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 20.0


@contextmanager
def bounded(seconds: float = SECONDS) -> Iterator[None]:
    """Fail if the block takes more than so many seconds of this thread's processor time."""
    began = time.thread_time()
    yield
    took = time.thread_time() - began
    assert took < seconds, f"took {took:.1f} seconds of processor time"
