"""Errors of requests of any kind: of their form, size, caller or rate."""

import math
from collections.abc import Sequence
from itertools import accumulate

from app.contracts.errors.base import MAX_FAULTS, MAX_FAULTS_CHARACTERS, Fault, FlowError


class NotFoundError(FlowError):
    """The route does not exist."""

    code = "NOT_FOUND"
    status = 404
    title = "Not found"


class WebBuildMissingError(FlowError):
    """The files for browsers were not built when the service was installed."""

    code = "WEB_BUILD_MISSING"
    status = 503
    title = "Browser files are not built"

    def __init__(self) -> None:
        super().__init__(
            "This installation has no browser files, because their build was skipped or failed; "
            "run 'server-flow web build' on the server and request this again"
        )


class MethodNotAllowedError(FlowError):
    """The route does not support the method."""

    code = "METHOD_NOT_ALLOWED"
    status = 405
    title = "Method not allowed"


class AuthenticationRequiredError(FlowError):
    """The request has no valid token."""

    code = "AUTHENTICATION_REQUIRED"
    status = 401
    title = "Authentication required"


class KeysUnavailableError(FlowError):
    """The keys for checking tokens cannot be read, because the identity provider does not answer."""

    code = "KEYS_UNAVAILABLE"
    status = 503
    title = "Keys unavailable"
    retryable = True
    retry_after = 2

    def __init__(self) -> None:
        super().__init__("The keys to check this token cannot be read at the moment; try again")


class InsufficientPermissionsError(FlowError):
    """The token does not allow the request."""

    code = "INSUFFICIENT_PERMISSIONS"
    status = 403
    title = "Insufficient permissions"


def service_limit_error(alias: str) -> InsufficientPermissionsError:
    """Create the error for a request that the credential of an integration is not for."""
    return InsufficientPermissionsError(
        f"This credential is limited to the service {alias}: it may read states of flows with a step of this "
        "service, and run transitions of these steps",
        service=alias,
    )


class FaultyInputError(FlowError):
    """Input with faults.

    ``details.errors`` lists them, up to ``MAX_FAULTS``, and fewer if they are long.
    """

    status = 422

    def __init__(self, faults: Sequence[Fault], message: str | None = None) -> None:
        faults = _listed(faults)
        listed = "; ".join(f"{f.pointer or '/'}: {f.message}" for f in faults[:3])
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        super().__init__(
            message or listed + more,
            errors=[{"pointer": f.pointer, "message": f.message} for f in faults],
        )
        self.faults = faults


def _listed(faults: Sequence[Fault]) -> list[Fault]:
    """Return as many faults as fit into an answer, at least the first."""
    totals = accumulate(len(fault.pointer) + len(fault.message) for fault in faults[:MAX_FAULTS])
    room = sum(1 for total in totals if total <= MAX_FAULTS_CHARACTERS)
    return list(faults[: max(1, room)])


class InvalidRequestError(FaultyInputError):
    """A body, parameter or header is not valid for the route."""

    code = "INVALID_REQUEST"
    title = "Invalid request"


class InvalidPayloadError(FaultyInputError):
    """A payload that cannot be stored."""

    code = "INVALID_PAYLOAD"
    title = "Invalid payload"


class InvalidDefinitionError(FaultyInputError):
    """A definition with faults."""

    code = "INVALID_DEFINITION"
    title = "Invalid definition"


class PayloadTooLargeError(FlowError):
    """More bytes than allowed."""

    code = "PAYLOAD_TOO_LARGE"
    status = 413
    title = "Payload too large"

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"The {what} is larger than {limit} bytes", limit=limit)


class MalformedRequestError(FlowError):
    """Bytes that are not a valid HTTP request or not valid packets of Engine.IO."""

    code = "MALFORMED_REQUEST"
    status = 400
    title = "Malformed request"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(
            message
            or "The request is not valid HTTP/1.1; check the client, and the proxy in front of the service"
        )


class AddressTooLongError(FlowError):
    """The path and query have more bytes than allowed."""

    code = "ADDRESS_TOO_LONG"
    status = 414
    title = "Address too long"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The address of the request is longer than {limit} bytes; send less in its query", limit=limit
        )


class HeadersTooLargeError(FlowError):
    """The headers have more bytes, or are more, than allowed."""

    code = "HEADERS_TOO_LARGE"
    status = 431
    title = "Headers too large"

    def __init__(self, limit: int, max_headers: int) -> None:
        super().__init__(
            f"The request has more than {limit} bytes of headers, or more than {max_headers} headers; send "
            "fewer and shorter ones (cookies are not needed)",
            limit=limit,
            maxHeaders=max_headers,
        )


class RequestTimeoutError(FlowError):
    """The request did not arrive completely in time."""

    code = "REQUEST_TIMEOUT"
    status = 408
    title = "Request timeout"
    retryable = True

    def __init__(self) -> None:
        super().__init__("The request did not arrive completely in time; send it again")


class TooManyConnectionsError(FlowError):
    """There are more connections than this process accepts."""

    code = "TOO_MANY_CONNECTIONS"
    status = 503
    title = "Too many connections"
    retryable = True
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("This server has reached its limit of connections; try again later")


class RateLimitedError(FlowError):
    """A client exceeds its rate limit; ``details.retryAfterMs`` is the time to the next request.

    ``policy`` is the name of the limit and its requests in a minute, None for limits of other kinds.
    """

    code = "RATE_LIMITED"
    status = 429
    title = "Rate limited"
    retryable = True
    retry_after = 1

    def __init__(self, what: str, seconds: float, *, policy: tuple[str, int] | None = None) -> None:
        super().__init__(f"{what}; try again later", retryAfterMs=max(1, round(seconds * 1000)))
        self.retry_after = max(1, math.ceil(seconds))
        self.policy = policy


class CheckTimeoutError(FlowError):
    """The check of a definition exceeded its time limit."""

    code = "CHECK_TIMEOUT"
    status = 503
    title = "Check timeout"
    retryable = True
    retry_after = 30

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"Checking this definition took longer than {seconds:g} seconds and was ended. Make it smaller, "
            "with fewer and shorter guards and schemas, or try again when the service is less busy"
        )


class SlowClientError(FlowError):
    """A connection is closed because its client does not read the events that are sent to it."""

    code = "SLOW_CLIENT"
    status = 503
    title = "Slow client"
    retryable = True

    def __init__(self) -> None:
        super().__init__("This client reads events slower than they are sent; connect again and catch up")
