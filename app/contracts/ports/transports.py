"""The ports of the transports of events to integrations."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from app.contracts.deliveries import FailureReason
from app.contracts.integration import Integration, IntegrationSecret

MAX_EVENT_BYTES = 262_144
"""Limit of an event, as JSON."""


class WebhookAnswer(Struct, frozen=True, kw_only=True):
    """The answer to a webhook request, or the reason why there is none.

    Attributes:
        status: The HTTP status, None if there was no answer.
        headers: The headers of the answer, with lower-case names.
        body: The beginning of the answer, at most the limit of the transport.
        truncated: The answer was longer than ``body``.
        failure: The side that failed, None if there was an answer.
        error: The failure as a text without addresses, "" if there was an answer.
        retry_after: The seconds that the answer asks to wait for, None if it does not.
    """

    status: int | None = None
    headers: Mapping[str, str] = {}
    body: bytes = b""
    truncated: bool = False
    failure: FailureReason | None = None
    error: str = ""
    retry_after: float | None = None


class WebhookTransport(Protocol):
    """Sends events by HTTP, signed after Standard Webhooks 1.0."""

    async def send(self, integration: Integration, event_id: str, body: bytes) -> WebhookAnswer:
        """Send one event, and return the answer; it does not raise.

        Any status is an answer, whatever it means; ``failure`` is None then. Redirects are not followed.
        Private addresses are refused unless settings allow them.
        """

    def address_fault(self, url: str) -> str | None:
        """Return why a URL cannot be that of a webhook, None if it can. Names are not resolved."""

    async def close(self) -> None:
        """Close all connections, after the last request."""


class EventStreams(Protocol):
    """Appends events to the Redis stream of an integration."""

    def key(self, alias: str) -> str:
        """Return the key by which programs read the stream of an integration."""

    async def append(
        self, alias: str, events: Sequence[tuple[str, bytes]], seal_with: IntegrationSecret | None = None
    ) -> None:
        """Append events, each with its id, in order.

        Args:
            alias: The integration.
            events: The ids and the texts of the events.
            seal_with: A secret of the integration, with which its programs open the events; None: they are
                appended in the clear.

        Raises:
            BusUnavailableError: Redis is unavailable; some of the events may have been appended.
        """

    async def delete(self, alias: str) -> None:
        """Remove the stream of an integration. Raises BusUnavailableError."""
