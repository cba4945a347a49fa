"""Errors of a request, whatever it is about: its form, its size, its caller, its rate."""

import math
from collections.abc import Sequence
from itertools import accumulate

from app.contracts.errors.base import MAX_FAULTS, MAX_FAULTS_CHARACTERS, Fault, FlowError


class NotFoundError(FlowError):
    """No such route."""

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
    """The route exists, its method does not."""

    code = "METHOD_NOT_ALLOWED"
    status = 405
    title = "Method not allowed"


class AuthenticationRequiredError(FlowError):
    """No valid token."""

    code = "AUTHENTICATION_REQUIRED"
    status = 401
    title = "Authentication required"


class KeysUnavailableError(FlowError):
    """The address of the keys that check tokens (FLOW_JWKS_URL) does not answer."""

    code = "KEYS_UNAVAILABLE"
    status = 503
    title = "Keys unavailable"
    retryable = True
    retry_after = 2

    def __init__(self) -> None:
        super().__init__("The keys to check this token cannot be read at the moment; try again")


class InsufficientPermissionsError(FlowError):
    """A valid token that does not allow this."""

    code = "INSUFFICIENT_PERMISSIONS"
    status = 403
    title = "Insufficient permissions"


class FaultyInputError(FlowError):
    """Input with faults; every one is in ``details.errors``, up to ``MAX_FAULTS``, and fewer long ones."""

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
    """As many faults as an answer has room for; the first is always among them."""
    totals = accumulate(len(fault.pointer) + len(fault.message) for fault in faults[:MAX_FAULTS])
    room = sum(1 for total in totals if total <= MAX_FAULTS_CHARACTERS)
    return list(faults[: max(1, room)])


class InvalidRequestError(FaultyInputError):
    """A body, parameter or header that is not what the route takes."""

    code = "INVALID_REQUEST"
    title = "Invalid request"


class InvalidPayloadError(FaultyInputError):
    """A payload that cannot be kept."""

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
    """Bytes that are no HTTP request, or no packets of Engine.IO."""

    code = "MALFORMED_REQUEST"
    status = 400
    title = "Malformed request"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(
            message or "This is no request of HTTP/1.1; check what the client or the proxy before it sends"
        )


class AddressTooLongError(FlowError):
    """A path and query of more bytes than allowed."""

    code = "ADDRESS_TOO_LONG"
    status = 414
    title = "Address too long"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The address of the request is longer than {limit} bytes; send less in its query", limit=limit
        )


class HeadersTooLargeError(FlowError):
    """Headers of more bytes, or more headers, than allowed."""

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
    """A request that did not arrive completely in time."""

    code = "REQUEST_TIMEOUT"
    status = 408
    title = "Request timeout"
    retryable = True

    def __init__(self) -> None:
        super().__init__("The request did not arrive completely in time; send it again")


class TooManyConnectionsError(FlowError):
    """More connections than this process accepts."""

    code = "TOO_MANY_CONNECTIONS"
    status = 503
    title = "Too many connections"
    retryable = True
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("This server has as many connections as it accepts; try again later")


class RateLimitedError(FlowError):
    """More requests than a client may make. ``details.retryAfterMs`` says when the next one is taken."""

    code = "RATE_LIMITED"
    status = 429
    title = "Rate limited"
    retryable = True
    retry_after = 1

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"{what}; try again later", retryAfterMs=max(1, round(seconds * 1000)))
        self.retry_after = max(1, math.ceil(seconds))


class CheckTimeoutError(FlowError):
    """The check of a definition takes longer than it may."""

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
    """A connection that is ended as its client does not read what it is told."""

    code = "SLOW_CLIENT"
    status = 503
    title = "Slow client"
    retryable = True

    def __init__(self) -> None:
        super().__init__("This client reads slower than it is told; connect again and catch up")
