"""A circuit breaker for guards and payload schemas whose evaluation takes longer than was estimated.

An evaluation cannot be interrupted, so that its cost is estimated first (``guard_cost``, ``schema_weight``).
One that takes many times its bound nevertheless shows that the estimate is wrong for it: it is refused in
this process for a while, for payloads of about that size or more.
"""

import gc
import time
from collections.abc import Callable
from typing import Literal, TypeVar

import structlog
from msgspec import Struct

log = structlog.get_logger("evaluation")

T = TypeVar("T")

TOLERANCE = 4
"""How many times its bound an evaluation may take, by the clock and in processor time of its thread."""
OPEN_SECONDS = 300.0
MAX_OPEN = 1000
SIZE_FACTOR = 0.5
"""From this fraction of the size that took long, payloads are refused: not one a byte smaller each time."""


class Place(Struct, frozen=True):
    """The transition whose guard or schema is evaluated."""

    flow: str
    step: str
    transition: str


class Subject(Struct, frozen=True):
    """The subject of an evaluation: ``key`` identifies the guard or the schema, ``size`` grows with the
    values, and ``bound_seconds`` is what the estimate promises."""

    kind: Literal["guard", "payloadSchema"]
    key: str
    size: float
    bound_seconds: float
    place: Place | None = None


class _Opened(Struct):
    size: float
    until: float


class _CollectorClock:
    """The processor time of Python's garbage collector: not the fault of what it interrupts."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0
        gc.callbacks.append(self._called)

    def _called(self, phase: str, _: object) -> None:
        if phase == "start":
            self._began = time.thread_time()
        else:
            self.seconds += time.thread_time() - self._began


_collector = _CollectorClock()


def own_thread_time() -> float:
    """The processor time of this thread in seconds, without the garbage collector."""
    return time.thread_time() - _collector.seconds


class EvaluationBreaker:
    """Evaluates, and refuses what took too long before.

    Args:
        tolerance: How many times its bound an evaluation may take.
        clock: A monotonic clock, in seconds.
        thread_clock: The processor time of the thread, in seconds: on a busy machine, or one that was
            suspended, the clock alone would accuse anything.
    """

    def __init__(
        self,
        tolerance: float = TOLERANCE,
        clock: Callable[[], float] = time.monotonic,
        thread_clock: Callable[[], float] = own_thread_time,
    ) -> None:
        self._tolerance = tolerance
        self._clock = clock
        self._thread_clock = thread_clock
        self._opened: dict[tuple[str, str], _Opened] = {}

    def evaluate(self, subject: Subject, evaluate: Callable[[], T]) -> T | None:
        """Evaluate, or return ``None``: it took too long a while ago. After that while it is evaluated once
        more, which closes the breaker or opens it again."""
        if self._opened and self.is_open(subject):
            return None
        began, thread_began = self._clock(), self._thread_clock()
        try:
            return evaluate()
        finally:
            allowed = self._tolerance * subject.bound_seconds
            seconds = self._clock() - began
            if seconds > allowed and self._thread_clock() - thread_began > allowed:
                self._open(subject, seconds)
            elif self._opened:
                self._close(subject)

    def is_open(self, subject: Subject) -> bool:
        """True if this is refused now."""
        opened = self._opened.get((subject.kind, subject.key))
        return opened is not None and subject.size >= opened.size and self._clock() < opened.until

    def _open(self, subject: Subject, seconds: float) -> None:
        key = (subject.kind, subject.key)
        size = subject.size * SIZE_FACTOR
        before = self._opened.pop(key, None)
        if before is not None:
            size = min(size, before.size)
        while len(self._opened) >= MAX_OPEN:
            del self._opened[next(iter(self._opened))]  # the oldest
        self._opened[key] = _Opened(size, self._clock() + OPEN_SECONDS)
        place = subject.place or Place("", "", "")
        log.error(
            "evaluation took too long, refused for a while",
            kind=subject.kind,
            flow=place.flow,
            step=place.step,
            transition=place.transition,
            seconds=round(seconds, 3),
            refused_seconds=OPEN_SECONDS,
        )

    def _close(self, subject: Subject) -> None:
        """Forget what took long, if it has been evaluated again with as much and in time."""
        opened = self._opened.get((subject.kind, subject.key))
        if opened is not None and subject.size >= opened.size:
            del self._opened[subject.kind, subject.key]


breaker = EvaluationBreaker()
"""The breaker of this process."""
