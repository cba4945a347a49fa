"""The root of the errors for clients, and faults of an input by JSON pointer."""

from typing import Any, ClassVar

from msgspec import Struct
from msgspec.structs import force_setattr

MAX_FAULTS = 100

MAX_FAULTS_CHARACTERS = 30_000
"""Limit of all faults of an answer together, so that a small request gets no large answer."""

MAX_POINTER = 1000

MAX_NAME = 256

MAX_MESSAGE = 500

MAX_DETAIL = 1000
"""Limits of texts in errors, in characters."""


def cut(text: str, limit: int) -> str:
    """Return the text, shortened to ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


class Fault(Struct, frozen=True):
    """A problem of a request.

    ``pointer`` is a JSON pointer (RFC 6901) into the request. Long pointers and messages are shortened.
    """

    pointer: str
    message: str

    def __post_init__(self) -> None:
        force_setattr(self, "pointer", cut(self.pointer, MAX_POINTER))
        force_setattr(self, "message", cut(self.message, MAX_MESSAGE))


class FlowError(Exception):
    """The root of every error that a caller can receive.

    ``code`` is stable, ``status`` is that of HTTP, ``retryable`` means that the same request may succeed
    later, ``details`` is JSON, ``retry_after`` is in seconds.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False
    retry_after: int | None = None

    def __init__(self, message: str, **details: Any) -> None:
        self.message = cut(message, MAX_DETAIL)
        super().__init__(self.message)
        self.details: dict[str, Any] = {
            name: cut(value, MAX_DETAIL) if isinstance(value, str) else value
            for name, value in details.items()
        }


class InternalError(FlowError):
    """A fault of the service itself."""

    def __init__(self) -> None:
        super().__init__("The service failed to answer this request; its log has the request id.")
