"""Single events that are sent to the webhook of a service on request, outside its deliveries."""

import time

from msgspec import UNSET, Struct, UnsetType

from app.auth.policy import require_manager
from app.contracts.callers import Caller
from app.contracts.deliveries import FailureReason
from app.contracts.errors import RateLimitedError, WebhookMissingError
from app.contracts.integration import Integration
from app.contracts.integration_commands import SampleCommand
from app.contracts.ports.clock import Clock
from app.contracts.ports.transports import WebhookTransport
from app.contracts.wire.encoding import encode
from app.contracts.wire.times import iso
from app.kit.ids import new_id
from app.kit.token_bucket import TokenBucket
from app.services.integrations.events import IntegrationEvents
from app.services.integrations.registry import IntegrationRegistry

PER_MINUTE = 30
"""Probes of one service through this worker."""
MAX_KNOWN = 1000


class ProbeResult(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The answer of a webhook to one event.

    Attributes:
        ok: The webhook answered with a status of success.
        event_id: The id of the event.
        duration_ms: The time until the answer, in milliseconds.
        status: The HTTP status, absent if there was no answer.
        failure: The side that failed, absent if there was an answer.
        error: The failure as a text.
    """

    ok: bool
    event_id: str
    duration_ms: float
    status: int | UnsetType = UNSET
    failure: FailureReason | UnsetType = UNSET
    error: str | UnsetType = UNSET


class IntegrationProbes:
    """Sends pings and sample events. They are no deliveries: nothing is stored, nor counted as a failure."""

    def __init__(
        self,
        registry: IntegrationRegistry,
        webhooks: WebhookTransport,
        events: IntegrationEvents,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._events = events
        self._webhooks = webhooks
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    async def ping(self, alias: str, caller: Caller) -> ProbeResult:
        """Send an event without data.

        Raises:
            InsufficientPermissionsError: The caller is neither an administrator nor the service.
            ServiceNotFoundError: There is no such service.
            WebhookMissingError: It has no webhook.
            RateLimitedError: There were too many probes of it.
        """
        integration = await self._target(alias, caller)
        event_id = f"evt_{new_id()}"
        event = {
            "specversion": "1.0",
            "id": event_id,
            "source": f"/services/{alias}",
            "type": "server-flow.ping",
            "time": iso(self._clock.now()),
            "datacontenttype": "application/json",
            "test": True,
            "data": {},
        }
        return await self._send(integration, event_id, encode(event))

    async def test(self, alias: str, command: SampleCommand, caller: Caller) -> ProbeResult:
        """Send a sample event. Raises as ``ping`` does."""
        integration = await self._target(alias, caller)
        event = self._events.sample(integration, command.type, self._clock.now())
        return await self._send(integration, event.id, event.body)

    async def _target(self, alias: str, caller: Caller) -> Integration:
        require_manager(caller, alias)
        found = await self._registry.stored(alias)
        if found.url is None:
            raise WebhookMissingError(alias)
        if alias not in self._buckets and len(self._buckets) >= MAX_KNOWN:
            self._buckets.clear()
        bucket = self._buckets.setdefault(alias, TokenBucket(PER_MINUTE / 60, PER_MINUTE))
        seconds = bucket.take()
        if seconds:
            raise RateLimitedError("This service is tested too often", seconds)
        return found

    async def _send(self, integration: Integration, event_id: str, body: bytes) -> ProbeResult:
        began = time.perf_counter()
        answer = await self._webhooks.send(integration, event_id, body)
        return ProbeResult(
            ok=answer.status is not None and 200 <= answer.status < 300,
            event_id=event_id,
            duration_ms=round((time.perf_counter() - began) * 1000, 1),
            status=UNSET if answer.status is None else answer.status,
            failure=answer.failure or UNSET,
            error=answer.error or UNSET,
        )
