"""The source of a request, which audit entries name: the kind of interface, and the address of the client.

Each interface sets it where a request arrives; code in this process that sets none is a Python program.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from msgspec import UNSET, Struct, UnsetType


class ActSource(Struct, frozen=True):
    """The source of a request.

    Args:
        client: ``http``, ``socket``, ``cli`` or ``python``.
        address: The network address of the client.
        request_id: The id of the request in the log.
        account: The account of the operating system that runs a command; it is the actor then.
    """

    client: str = "python"
    address: str | UnsetType = UNSET
    request_id: str | UnsetType = UNSET
    account: str | UnsetType = UNSET


_PROGRAM = ActSource()
_SOURCE: ContextVar[ActSource] = ContextVar("source of audited acts", default=_PROGRAM)


def current_source() -> ActSource:
    """Return the source of the present request."""
    return _SOURCE.get()


@contextmanager
def acting_from(source: ActSource) -> Iterator[None]:
    """Name the source of the acts in this block."""
    token = _SOURCE.set(source)
    try:
        yield
    finally:
        _SOURCE.reset(token)
