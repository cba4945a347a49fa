"""A client's requests, repeated until they are answered."""

import asyncio
import copy
from typing import Any

from realtime.client.errors import Backoff, FlowClientError, LostError, error_in, retry_after
from realtime.client.outgoing import LARGEST_MESSAGE_BYTES, check_size, checked
from realtime.client.reconnecting import ReconnectingConnection

ACK_SECONDS = 10.0
DEADLINE_SECONDS = 60.0

FOR_THE_CALLER = frozenset({"STATE_PAUSED", "REVISION_CONFLICT"})
"""Retryable, but whether to try again depends on what the caller wants."""


class Requests:
    """Sends over a link. A request is repeated as it is, with its id, so that it is done once."""

    def __init__(self, link: ReconnectingConnection, ack_seconds: float = ACK_SECONDS) -> None:
        self._link = link
        self._ack_seconds = ack_seconds

    async def ask(self, event: str, body: dict[str, Any], deadline: float) -> dict[str, Any]:
        """The answer, through lost connections and errors that pass. After ``deadline`` seconds the last
        error, TIMEOUT when there was none. A message that can only be refused is so at once."""
        body = checked(body)
        check_size(event, body, LARGEST_MESSAGE_BYTES)
        errors: list[FlowClientError] = []
        backoff = Backoff()
        try:
            async with asyncio.timeout(deadline) as limit:
                while True:
                    answer = await self.attempt(event, body, backoff, errors)
                    if answer is not None:
                        return answer
        except TimeoutError:
            if not limit.expired():
                raise
            last = errors[-1] if errors else self._link.trouble
            if last is not None:
                raise copy.copy(last) from None
            raise FlowClientError("TIMEOUT", f"No answer to {event} in {deadline:g} s", True) from None

    async def attempt(
        self,
        event: str,
        body: dict[str, Any],
        backoff: Backoff,
        errors: list[FlowClientError] | None = None,
    ) -> dict[str, Any] | None:
        """The answer to it sent once. None when it is to be repeated, after the wait for it; the error, if
        that was why, is put into ``errors``."""
        wait = 0.0
        try:
            return _accepted(await self._link.call(event, body, self._ack_seconds))
        except LostError:
            pass  # the link waits before it connects again
        except TimeoutError:
            wait = backoff.next()
        except FlowClientError as error:
            if error.code == "AUTHENTICATION_REQUIRED" and self._link.failure is None:
                self._link.drop()  # the token expired: the next connection brings a new one
            elif not error.retryable or error.code in FOR_THE_CALLER:
                raise
            if errors is not None:
                errors[:] = [error]
            wait = retry_after(error) or backoff.next()
        await self._link.pause(wait)
        return None


def _accepted(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise FlowClientError("INVALID_ANSWER", "The server's answer is none of ours")
    if answer.get("ok") is not True:
        raise error_in(answer.get("error"))
    return answer
