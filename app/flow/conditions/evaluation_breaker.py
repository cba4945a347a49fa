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
"""Factor of its bound that an evaluation may take, by the clock and in processor time of its thread."""
OPEN_SECONDS = 300.0
MAX_OPEN = 1000
SIZE_FACTOR = 0.5
"""Payloads from this fraction of the slow size are refused, so that a byte less does not evade the
breaker."""


class Place(Struct, frozen=True):
    """The transition whose guard or schema is evaluated."""

    flow: str
    step: str
    transition: str


class Subject(Struct, frozen=True):
    """The subject of an evaluation.

    Args:
        kind: A guard or a payload schema.
        key: Identifies the guard or the schema.
        size: A measure that grows with the values.
        bound_seconds: The upper bound that was estimated.
        place: The transition, for the log.
    """

    kind: Literal["guard", "payloadSchema"]
    key: str
    size: float
    bound_seconds: float
    place: Place | None = None


class _Opened(Struct):
    size: float
    until: float


class _CollectorClock:
    """Measures the processor time of Python's garbage collector, which is not part of an evaluation."""

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
    """Return the processor time of this thread in seconds, without the garbage collector."""
    return time.thread_time() - _collector.seconds


class EvaluationBreaker:
    """Evaluates guards and schemas, and refuses those that took too long before.

    Args:
        tolerance: Factor of its bound that an evaluation may take.
        clock: A monotonic clock, in seconds.
        thread_clock: The processor time of the thread, in seconds. The clock alone would open the breaker
            on a busy machine, or on one that was suspended.
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
        """Evaluate, or return None while the subject is refused.

        After ``OPEN_SECONDS`` it is evaluated once more, which closes the breaker or opens it again.
        """
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
        """True if the subject is refused now."""
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
        """Close the breaker if the subject was evaluated in time with a payload of the slow size."""
        opened = self._opened.get((subject.kind, subject.key))
        if opened is not None and subject.size >= opened.size:
            del self._opened[subject.kind, subject.key]


breaker = EvaluationBreaker()
"""The breaker of this process."""
