"""The WebhookTransport port over HTTP, with aiohttp."""

import asyncio
import math
import ssl
from datetime import datetime
from functools import lru_cache, partial
from importlib import import_module
from typing import TYPE_CHECKING

import structlog

from app.contracts.integration import Integration
from app.contracts.ports.clock import Clock
from app.contracts.ports.transports import MAX_EVENT_BYTES, WebhookAnswer
from app.outbound.addresses import AddressPolicy
from app.outbound.webhook_signatures import SecretError, decode_secret, signature_headers
from app.outbound.webhook_urls import url_fault
from config.log import describe
from config.networks import PrivateAddresses

if TYPE_CHECKING:
    from aiohttp.abc import AbstractResolver

    from app.outbound.webhook_client import WebhookClient

log = structlog.get_logger("outbound")

TIMEOUT_SECONDS = 15.0
MAX_KNOWN_URLS = 1000
"""URLs whose check is remembered: it depends on nothing else, and each event needs it."""
HEADERS = {
    "Content-Type": "application/cloudevents+json; charset=utf-8",
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "server-flow",
}


class AiohttpWebhooks:
    """Sends events by HTTP, each signed with all valid secrets of its integration, the newest first."""

    def __init__(
        self,
        private_addresses: PrivateAddresses,
        clock: Clock,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        resolver: "AbstractResolver | None" = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Create the transport; aiohttp is imported when the first event is sent.

        Args:
            private_addresses: The addresses outside the public network that may be sent to.
            clock: The time that is signed.
            timeout_seconds: The largest duration of a request with its answer.
            resolver: The resolver of host names, by default the system's.
            tls: The trusted authorities, by default the system's.
        """
        self._policy = AddressPolicy(private_addresses)
        self._url_fault = lru_cache(MAX_KNOWN_URLS)(partial(url_fault, policy=self._policy))
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._resolver = resolver
        self._tls = tls
        self._client: WebhookClient | None = None
        self._opening = asyncio.Lock()

    def address_fault(self, url: str) -> str | None:
        """Return why a URL cannot be that of a webhook, None if it can. Names are not resolved."""
        return self._url_fault(url)

    async def send(self, integration: Integration, event_id: str, body: bytes) -> WebhookAnswer:
        """Send one event, and return the answer; it does not raise."""
        now = self._clock.now()
        prepared = self._prepare(integration, event_id, body, now)
        if isinstance(prepared, WebhookAnswer):
            return prepared
        url, headers = prepared
        try:
            client = await self._open()
            return await client.post(url, headers, body, now)
        except Exception as error:  # noqa: BLE001 - a defect here must not stop other deliveries
            log.error("webhook failed unexpectedly", service=integration.alias, **describe(error))
            return _failed_here("the request could not be sent")

    async def close(self) -> None:
        """Close all connections. A later request opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _prepare(
        self, integration: Integration, event_id: str, body: bytes, now: datetime
    ) -> tuple[str, dict[str, str]] | WebhookAnswer:
        """Return the URL and the headers of a request, or the failure of this side."""
        if integration.url is None:
            return _failed_here("the service has no url")
        if len(body) > MAX_EVENT_BYTES:
            return WebhookAnswer(
                failure="too_large",
                error=f"the event has {len(body)} bytes, and {MAX_EVENT_BYTES} are the limit",
            )
        fault = self.address_fault(integration.url)
        if fault is not None:
            return WebhookAnswer(failure="refused_address", error=fault)
        valid = [
            each.secret
            for each in sorted(integration.secrets, key=lambda each: each.created_at, reverse=True)
            if each.expires_at is None or each.expires_at > now
        ]
        if not valid:
            return _failed_here("the service has no valid secret")
        try:
            keys = [decode_secret(secret) for secret in valid]
        except SecretError:
            return _failed_here("a secret of the service cannot be read")
        try:
            signed = signature_headers(keys, event_id, math.floor(now.timestamp()), body)
        except ValueError:
            return _failed_here("the id of the event cannot be signed")
        return integration.url, {**HEADERS, **signed}

    async def _open(self) -> "WebhookClient":
        async with self._opening:
            if self._client is None:
                # The import costs 0.2 s, which other tasks do not wait for.
                module = await asyncio.to_thread(import_module, "app.outbound.webhook_client")
                self._client = module.WebhookClient(
                    self._policy, self._timeout_seconds, resolver=self._resolver, tls=self._tls
                )
            return self._client


def _failed_here(reason: str) -> WebhookAnswer:
    return WebhookAnswer(failure="internal", error=reason)
