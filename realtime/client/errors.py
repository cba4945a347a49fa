"""Errors of the client, and the delays between its attempts."""

import random
from typing import Any

MIN_DELAY_SECONDS, MAX_DELAY_SECONDS = 0.1, 5.0


class FlowClientError(Exception):
    """An error of the client, with the server's ``code``, ``message``, ``retryable`` and ``details``.

    The client's own codes are UNREACHABLE (``details`` has the ``url`` and the ``cause``), TOKEN_UNAVAILABLE
    (the token callback failed), TIMEOUT (no answer), CLOSED and INVALID_ANSWER; and INVALID_PAYLOAD,
    INVALID_REQUEST and PAYLOAD_TOO_LARGE for messages that are not sent.
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


class ConnectionLostError(Exception):
    """The connection ended before the answer came."""


class Backoff:
    """Delays that double up to a maximum, with jitter."""

    def __init__(self) -> None:
        self._delays = 0

    def reset(self) -> None:
        """Start again with the shortest delay."""
        self._delays = 0

    def next(self) -> float:
        """Return the seconds to wait this time."""
        delay = min(MAX_DELAY_SECONDS, MIN_DELAY_SECONDS * 2.0 ** min(self._delays, 10))
        self._delays += 1
        return random.uniform(0.5, 1) * delay  # noqa: S311 - no secret


def unreachable(url: str, error: BaseException) -> FlowClientError:
    """Return the UNREACHABLE error for an address, with the innermost cause."""
    cause = innermost(error)
    status = getattr(cause, "status", None)  # of aiohttp, whose own text repeats the address with its query
    reason = (
        f"HTTP status {status}"
        if isinstance(status, int)
        else " ".join(str(cause).split()) or type(cause).__name__
    )
    failure = FlowClientError(
        "UNREACHABLE", f"{url} cannot be reached: {reason}", True, {"url": url, "cause": reason}
    )
    failure.__cause__ = error
    return failure


def innermost(error: BaseException) -> BaseException:
    """Return the innermost cause of an error: libraries wrap the system's error."""
    seen = {id(error)}
    while True:
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None or id(cause) in seen:
            return error
        seen.add(id(cause))
        error = cause


def error_in(view: Any) -> FlowClientError:
    """Decode an error that the server sent."""
    if not isinstance(view, dict):
        return FlowClientError("INVALID_ANSWER", "The server sent a malformed error")
    details = view.get("details")
    return FlowClientError(
        str(view.get("code", "INVALID_ANSWER")),
        str(view.get("message", "")),
        bool(view.get("retryable", False)),
        details if isinstance(details, dict) else None,
    )


def retry_after(error: FlowClientError) -> float | None:
    """Return the seconds after which the server allows a retry, None if it names none."""
    delay_ms = error.details.get("retryAfterMs")
    return float(delay_ms) / 1000 if isinstance(delay_ms, int | float) and delay_ms > 0 else None
