"""The JSON shapes of errors."""

from typing import Any

from msgspec import Struct

from app.contracts.errors import FlowError


class ErrorView(Struct, frozen=True):
    """An error inside an answer."""

    code: str
    message: str
    retryable: bool
    details: dict[str, Any]


def error_view(error: FlowError) -> ErrorView:
    """Return the view of an error for Socket.IO clients and for the results of a batch."""
    return ErrorView(error.code, error.message, error.retryable, error.details)


def problem_view(error: FlowError, instance: str) -> dict[str, Any]:
    """Return the problem (RFC 9457) of an error; ``instance`` is the path of the request."""
    return {
        "type": f"urn:server-flow:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.message,
        "instance": instance,
        "code": error.code,
        "retryable": error.retryable,
        "details": error.details,
    }
