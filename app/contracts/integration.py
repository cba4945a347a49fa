"""Integrations: registered outside programs that own steps of flows. On the wire they are *services*."""

import re
from datetime import datetime
from typing import Literal, TypeGuard

from msgspec import UNSET, Struct, UnsetType

ALIAS_PATTERN = r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"
"""An alias is the text that steps have as their ``service``. It has no separator of keys."""

_ALIAS = re.compile(ALIAS_PATTERN)

EventType = Literal[
    "flow.completed",
    "flow.step.entered",
    "flow.started",
    "flow.transition",
    "flow.undone",
    "flow.reset",
    "flow.set",
    "flow.paused",
    "flow.resumed",
    "flow.cleared",
    "flow.expired",
    "flow.recovered",
    "flow.migrated",
    "flow.erased",
    "flow.participants",
]
"""Types of events. A committed change is one event for each integration that it concerns.

Its type is the first of these that the integration receives and that applies: ``flow.completed`` if the
change completed the state, ``flow.step.entered`` if the state entered a step of this integration, otherwise
the type of the kind of change.
"""


class IntegrationSecret(Struct, frozen=True):
    """A secret that signs webhooks: ``whsec_`` and base64 (Standard Webhooks).

    Attributes:
        id: Its name, to refer to it.
        secret: The secret itself.
        created_at: The time at which it was made.
        expires_at: The end of its use, None for the newest one.
    """

    id: str
    secret: str
    created_at: datetime
    expires_at: datetime | None = None


class Heartbeat(Struct, frozen=True):
    """The last report of an integration about itself."""

    status: Literal["ok", "degraded", "down"]
    at: datetime
    message: str | UnsetType = UNSET


class BacklogPolicy(Struct, frozen=True):
    """The decision about events that waited while an integration was away.

    ``skip``: events before ``before`` are not delivered. ``newest``: of the events of a state before
    ``before``, only the last one is delivered.
    """

    kind: Literal["skip", "newest"]
    before: datetime


class Integration(Struct, frozen=True, kw_only=True):
    """A registered integration.

    Attributes:
        alias: The name by which steps refer to it.
        url: The address of its webhook, None if it has none.
        events: The types of events that it receives, None for all.
        flows: The flows whose events it receives, None for all flows with a step of its own.
        steps: Steps, as ``step`` or ``flow/step``; it receives the events of changes from or to one of them.
            None: all changes.
        stream: Its events are appended to a Redis stream.
        rate: The largest number of webhook requests in a second, None for no limit.
        concurrency: The largest number of webhook requests at a time.
        thin: Events have ids only.
        fields: JSON pointers of the parts of payloads that its events have, None for the whole payloads.
        enabled: Events are delivered; otherwise they wait.
        disabled_reason: The reason of a disabled integration.
        disabled_by: Who disabled it. Only an administrator enables what an administrator has disabled.
        secrets: The secrets that sign, the newest first.
        backlog: The decision about events that waited, absent: all are delivered.
        heartbeat: Its last report, absent if there is none.
        waiting_listed: The list of waiting states has also those that waited before the registration.
        registered_at: The time of the registration. Changes after it are delivered.
        updated_at: The time of the last change of the registration.
        revision: The number of changes of the registration.
    """

    alias: str
    url: str | None = None
    events: tuple[EventType, ...] | None = None
    flows: tuple[str, ...] | None = None
    steps: tuple[str, ...] | None = None
    stream: bool = False
    rate: int | None = None
    concurrency: int = 10
    thin: bool = False
    fields: tuple[str, ...] | None = None
    enabled: bool = True
    disabled_reason: str | UnsetType = UNSET
    disabled_by: Literal["administrator", "receiver"] | UnsetType = UNSET
    secrets: tuple[IntegrationSecret, ...] = ()
    backlog: BacklogPolicy | UnsetType = UNSET
    heartbeat: Heartbeat | UnsetType = UNSET
    waiting_listed: bool = False
    registered_at: datetime
    updated_at: datetime
    revision: int = 0


BreakerState = Literal["closed", "open", "probing", "ramping"]


class IntegrationHealth(Struct, frozen=True, kw_only=True):
    """The shared state of the breaker of an integration, and counts of its deliveries.

    Attributes:
        alias: The integration.
        breaker: ``open`` defers all deliveries, ``probing`` allows one, ``ramping`` ``allowed`` at a time.
        failures: Consecutive failures of the receiver.
        failing: Fingerprints of the lanes of these failures, at most eight; a probe uses another lane.
        openings: Consecutive openings, from which the pause follows.
        next_probe_at: The time of the next probe of an open breaker; the end of a probe that has begun.
        allowed: Concurrent deliveries while ramping.
        reason: The last failure, for operators.
        delivered: Deliveries that succeeded, since the registration.
        failed: Attempts that the receiver failed or refused.
        internal: Attempts that failed on our side, which never count against the receiver.
        window: The second, since 1970, whose rate ``used`` counts.
        used: Requests in that second.
        revision: The number of changes, for conditional updates.
    """

    alias: str
    breaker: BreakerState = "closed"
    failures: int = 0
    failing: tuple[str, ...] = ()
    openings: int = 0
    next_probe_at: datetime | UnsetType = UNSET
    allowed: int = 0
    reason: str | UnsetType = UNSET
    delivered: int = 0
    failed: int = 0
    internal: int = 0
    window: int = 0
    used: int = 0
    revision: int = 0


def is_alias(value: object) -> TypeGuard[str]:
    """Return whether a value can be the alias of an integration."""
    return isinstance(value, str) and _ALIAS.fullmatch(value) is not None


KEY_PREFIX = "sfk_"
"""API keys of integrations begin so, and no JSON Web Token does."""


class ApiKey(Struct, frozen=True, kw_only=True):
    """A key by which an integration authenticates; only its hash is stored.

    Attributes:
        id: The public part of the key.
        alias: The integration that it belongs to.
        hashed: The SHA-256 of the secret part, in hexadecimal.
        name: A label, for people.
        created_at: The time at which it was made.
        created_by: The caller who made it.
        expires_at: The end of its use, absent for none.
        revoked_at: The time of its revocation, absent if it is valid.
        last_used_at: The last use, to within a minute, absent if it was never used.
    """

    id: str
    alias: str
    hashed: str
    created_at: datetime
    created_by: str
    name: str = ""
    expires_at: datetime | UnsetType = UNSET
    revoked_at: datetime | UnsetType = UNSET
    last_used_at: datetime | UnsetType = UNSET

    def is_valid_at(self, now: datetime) -> bool:
        """Return whether the key is neither revoked nor expired."""
        return self.revoked_at is UNSET and (self.expires_at is UNSET or now < self.expires_at)
