"""Requests of a client, repeated until they are answered."""

import asyncio
import copy
from typing import Any

from realtime.client.errors import Backoff, ConnectionLostError, FlowClientError, error_in, retry_after
from realtime.client.outgoing import MAX_MESSAGE_BYTES, check_size, checked
from realtime.client.reconnecting import ReconnectingConnection

ACK_SECONDS = 10.0
DEADLINE_SECONDS = 60.0

CALLER_DECIDES = frozenset({"STATE_PAUSED", "REVISION_CONFLICT", "CLAIMED"})
"""Retryable codes for which only the caller knows whether to retry."""


class Requests:
    """Sends requests. A repetition has the same body and id, so that the server executes it once."""

    def __init__(self, connection: ReconnectingConnection, ack_seconds: float = ACK_SECONDS) -> None:
        self._connection = connection
        self._ack_seconds = ack_seconds

    async def send(self, event: str, body: dict[str, Any], deadline_seconds: float) -> dict[str, Any]:
        """Return the answer to an event, through lost connections and transient errors.

        Raises:
            FlowClientError: The error if it is final; after the deadline the last error, or TIMEOUT if there
                was none. A message that the server could only refuse fails at once.
        """
        body = checked(body)
        check_size(event, body, MAX_MESSAGE_BYTES)
        errors: list[FlowClientError] = []
        backoff = Backoff()
        try:
            async with asyncio.timeout(deadline_seconds) as deadline:
                while True:
                    answer = await self.attempt(event, body, backoff, errors)
                    if answer is not None:
                        return answer
        except TimeoutError:
            if not deadline.expired():
                raise
            last = errors[-1] if errors else self._connection.last_error
            if last is not None:
                raise copy.copy(last) from None
            raise FlowClientError(
                "TIMEOUT", f"No answer to {event} in {deadline_seconds:g} s", True
            ) from None

    async def attempt(
        self,
        event: str,
        body: dict[str, Any],
        backoff: Backoff,
        errors: list[FlowClientError] | None = None,
    ) -> dict[str, Any] | None:
        """Send an event once.

        Args:
            event: The event's name.
            body: Its checked body.
            backoff: The delays between attempts.
            errors: Receives the error that requires a repetition, if there was one.

        Returns:
            The answer; None if the event must be sent again, once the delay before that has passed.

        Raises:
            FlowClientError: A final error.
        """
        delay = 0.0
        try:
            return _accepted(await self._connection.request(event, body, self._ack_seconds))
        except ConnectionLostError:
            pass  # the connection waits before it is made again
        except TimeoutError:
            delay = backoff.next()
        except FlowClientError as error:
            if error.code == "AUTHENTICATION_REQUIRED" and self._connection.failure is None:
                self._connection.reconnect()  # the token expired: the next connection gets a new one
            elif not error.retryable or error.code in CALLER_DECIDES:
                raise
            if errors is not None:
                errors[:] = [error]
            delay = retry_after(error) or backoff.next()
        await self._connection.pause(delay)
        return None


def _accepted(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise FlowClientError("INVALID_ANSWER", "The server sent a malformed answer")
    if answer.get("ok") is not True:
        raise error_in(answer.get("error"))
    return answer
