"""Calls of key services: bounded in number and time, with errors for operators."""

import asyncio
import binascii
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import TypeVar

import structlog

from app.contracts.errors import KeyServiceUnavailableError

log = structlog.get_logger("encryption")

T = TypeVar("T")

MAX_CALLS = 8
CONNECT_SECONDS = 2.0
READ_SECONDS = 3.0
CALL_SECONDS = 8.0
"""Time for a call with its repetitions, and with the wait for a slot."""


def owner_context(owner: str) -> str:
    """Return the context of a wrapped key. It is a hash, as services log the context."""
    return sha256(b"server-flow data key\0" + owner.encode()).hexdigest()


class KeyServiceCalls:
    """Calls of one key.

    Args:
        key_id: The id of the key, for errors.
    """

    def __init__(self, key_id: str) -> None:
        self._key_id = key_id
        self._slots = asyncio.Semaphore(MAX_CALLS)

    def failed(self, reason: str) -> KeyServiceUnavailableError:
        """Log that the service fails, and return the error. ``reason`` must be free of secrets."""
        log.error("key service failed", wrapping_key=self._key_id, reason=reason)
        return KeyServiceUnavailableError(f"The key service fails ({reason}) for the key {self._key_id}")

    def decoded(self, text: object) -> bytes:
        """Return bytes of an answer in base64. Raises KeyServiceUnavailableError if it is something else."""
        try:
            return b64decode(text if isinstance(text, str) else "?", validate=True)
        except binascii.Error:
            raise self.failed("an unreadable answer") from None

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait until a call may run. Raises KeyServiceUnavailableError after a while."""
        try:
            async with asyncio.timeout(CALL_SECONDS), self._slots:
                yield
        except TimeoutError:
            raise self.failed("it does not respond") from None

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run a call that blocks. Raises KeyServiceUnavailableError after a while."""
        async with self.slot():
            return await asyncio.to_thread(call)
