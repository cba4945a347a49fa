"""The guard of connections (SSRF): it decides about the address that a socket is about to connect to.

A name may resolve to several addresses, and to others each time; therefore a check of the URL is not enough.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class RefusalRecord:
    """Notes whether the guard refused an address within a block."""

    def __init__(self) -> None:
        self.refused = False


_RECORD: ContextVar[RefusalRecord | None] = ContextVar("refusals of a socket guard", default=None)


class SocketGuard:
    """Creates sockets to allowed addresses only: the ``socket_factory`` of aiohttp's connector."""

    def __init__(self, allows: Callable[[str], bool]) -> None:
        self._allows = allows

    @staticmethod
    @contextmanager
    def recording() -> Iterator[RefusalRecord]:
        """Record refusals of this block, which may run beside other blocks.

        aiohttp connects in tasks that inherit the context of the request.
        """
        record = RefusalRecord()
        token = _RECORD.set(record)
        try:
            yield record
        finally:
            _RECORD.reset(token)

    def __call__(self, address: tuple[Any, ...]) -> socket.socket:
        """Create a socket for an address of ``getaddrinfo``. Raises OSError if it is not allowed."""
        family, kind, protocol, _, where = address
        if not self._allows(where[0]):
            record = _RECORD.get()
            if record is not None:
                record.refused = True
            raise OSError("the address is not allowed")
        return socket.socket(family, kind, protocol)
