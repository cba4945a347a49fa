"""Failures of a client, and how long it waits before it tries again."""

import random
from typing import Any

FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0


class FlowClientError(Exception):
    """An error at a client, with the server's ``code``, ``message``, ``retryable`` and ``details``.

    Codes of the client's own: UNREACHABLE (``details`` has the ``url`` and the ``cause``), TOKEN_UNAVAILABLE
    (the token callback failed), TIMEOUT (no answer), CLOSED and INVALID_ANSWER; and INVALID_PAYLOAD,
    INVALID_REQUEST and PAYLOAD_TOO_LARGE for what is not sent.
    """

    def __init__(
        self, code: str, message: str, retryable: bool = False, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(code, message, retryable, details)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.details = details or {}

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class LostError(Exception):
    """The connection ended before the answer came."""


class Backoff:
    """Delays that double, with jitter."""

    def __init__(self) -> None:
        self._delays = 0

    def reset(self) -> None:
        """Begin again with the shortest."""
        self._delays = 0

    def next(self) -> float:
        """Seconds to wait this time."""
        longest = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(self._delays, 10))
        self._delays += 1
        return random.uniform(0.5, 1) * longest  # noqa: S311 - no secret


def unreachable(url: str, error: BaseException) -> FlowClientError:
    """There is no connection to an address, for this reason."""
    cause = innermost(error)
    status = getattr(cause, "status", None)  # of aiohttp, whose own text repeats the address with its query
    why = (
        f"HTTP status {status}"
        if isinstance(status, int)
        else " ".join(str(cause).split()) or type(cause).__name__
    )
    failure = FlowClientError(
        "UNREACHABLE", f"{url} cannot be reached: {why}", True, {"url": url, "cause": why}
    )
    failure.__cause__ = error
    return failure


def innermost(error: BaseException) -> BaseException:
    """The innermost cause of an error: libraries wrap what the system said."""
    seen = {id(error)}
    while True:
        below = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if below is None or id(below) in seen:
            return error
        seen.add(id(below))
        error = below


def error_in(view: Any) -> FlowClientError:
    """An error as the server told it."""
    if not isinstance(view, dict):
        return FlowClientError("INVALID_ANSWER", "The server's error is none of ours")
    details = view.get("details")
    return FlowClientError(
        str(view.get("code", "INVALID_ANSWER")),
        str(view.get("message", "")),
        bool(view.get("retryable", False)),
        details if isinstance(details, dict) else None,
    )


def retry_after(error: FlowClientError) -> float | None:
    """The seconds that the server asks to wait, if it does."""
    wait = error.details.get("retryAfterMs")
    return float(wait) / 1000 if isinstance(wait, int | float) and wait > 0 else None
