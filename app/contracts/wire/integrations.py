"""The JSON shapes of registered services."""

from datetime import datetime
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from app.contracts.integration import (
    BacklogPolicy,
    BreakerState,
    EventType,
    Heartbeat,
    Integration,
    IntegrationHealth,
)
from app.contracts.wire.times import Time, iso


class SecretView(Struct, frozen=True, rename="camel"):
    """A secret by its id. ``expiresAt`` is absent for the newest one."""

    id: str
    created_at: Time
    expires_at: Time | UnsetType = UNSET


class BacklogView(Struct, frozen=True, rename="camel"):
    """Events from before ``before`` are skipped, or only the newest one of each state is delivered."""

    kind: Literal["skip", "newest"]
    before: Time


class HeartbeatView(Struct, frozen=True, rename="camel"):
    """The last report of a service about itself."""

    status: Literal["ok", "degraded", "down"]
    at: Time
    message: str | UnsetType = UNSET


class HealthView(Struct, frozen=True, rename="camel"):
    """The deliveries to a service, over all workers.

    An ``open`` breaker sends nothing until ``nextProbeAt``; a ``ramping`` one ``allowed`` requests at a time.
    ``failures`` counts the last ones in a row, ``reason`` is the last. ``delivered``, ``failed`` and
    ``internal`` count since the registration; ``internal`` attempts failed on the side of server-flow.
    """

    breaker: BreakerState
    failures: int
    delivered: int
    failed: int
    internal: int
    next_probe_at: Time | UnsetType = UNSET
    allowed: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class ServiceView(Struct, frozen=True, rename="camel"):
    """A registered service.

    ``secret`` signs its webhooks; it is shown once: when the service is registered, and when the secret is
    rotated. ``waiting`` counts the states with undelivered events, up to 1,000. ``streamKey`` is the key of
    its Redis stream.
    """

    alias: str
    url: str | None
    events: tuple[EventType, ...] | None
    flows: tuple[str, ...] | None
    steps: tuple[str, ...] | None
    stream: bool
    rate: int | None
    concurrency: int
    thin: bool
    fields: tuple[str, ...] | None
    enabled: bool
    secrets: list[SecretView]
    health: HealthView
    registered_at: Time
    updated_at: Time
    revision: int
    disabled_reason: str | UnsetType = UNSET
    disabled_by: Literal["administrator", "receiver"] | UnsetType = UNSET
    backlog: BacklogView | UnsetType = UNSET
    heartbeat: HeartbeatView | UnsetType = UNSET
    waiting: int | UnsetType = UNSET
    secret: str | UnsetType = UNSET
    stream_key: str | UnsetType = UNSET


def service_view(
    integration: Integration,
    health: IntegrationHealth,
    *,
    waiting: int | UnsetType = UNSET,
    secret: str | UnsetType = UNSET,
    stream_key: str | UnsetType = UNSET,
) -> ServiceView:
    """Return the view of a registered service; only ``secret`` shows a secret."""
    return ServiceView(
        alias=integration.alias,
        url=integration.url,
        events=integration.events,
        flows=integration.flows,
        steps=integration.steps,
        stream=integration.stream,
        rate=integration.rate,
        concurrency=integration.concurrency,
        thin=integration.thin,
        fields=integration.fields,
        enabled=integration.enabled,
        secrets=[
            SecretView(each.id, iso(each.created_at), _time(each.expires_at or UNSET))
            for each in integration.secrets
        ],
        health=health_view(health),
        registered_at=iso(integration.registered_at),
        updated_at=iso(integration.updated_at),
        revision=integration.revision,
        disabled_reason=integration.disabled_reason,
        disabled_by=integration.disabled_by,
        backlog=_backlog_view(integration.backlog),
        heartbeat=UNSET if integration.heartbeat is UNSET else heartbeat_view(integration.heartbeat),
        waiting=waiting,
        secret=secret,
        stream_key=stream_key,
    )


def health_view(health: IntegrationHealth) -> HealthView:
    """Return the view of the health of a service."""
    return HealthView(
        breaker=health.breaker,
        failures=health.failures,
        delivered=health.delivered,
        failed=health.failed,
        internal=health.internal,
        next_probe_at=_time(health.next_probe_at),
        allowed=health.allowed if health.breaker == "ramping" else UNSET,
        reason=health.reason,
    )


def heartbeat_view(heartbeat: Heartbeat) -> HeartbeatView:
    """Return the view of a heartbeat."""
    return HeartbeatView(heartbeat.status, iso(heartbeat.at), heartbeat.message)


def _backlog_view(policy: BacklogPolicy | UnsetType) -> BacklogView | UnsetType:
    return UNSET if policy is UNSET else BacklogView(policy.kind, iso(policy.before))


def _time(moment: datetime | UnsetType) -> Time | UnsetType:
    return UNSET if moment is UNSET else iso(moment)
