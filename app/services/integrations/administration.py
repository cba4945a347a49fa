"""Use cases about registered services: for administrators, and for each service about itself."""

from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any

import structlog
from msgspec import UNSET, Struct, UnsetType, structs

from app.auth.policy import require_administrator, require_manager
from app.contracts.callers import Caller
from app.contracts.errors import (
    BusUnavailableError,
    Fault,
    InsufficientPermissionsError,
    InvalidRequestError,
    ServiceConflictError,
    ServiceNotFoundError,
)
from app.contracts.integration import BacklogPolicy, Heartbeat, Integration, IntegrationHealth
from app.contracts.integration_commands import (
    DisableCommand,
    EnableCommand,
    HeartbeatCommand,
    RegistrationCommand,
    RotateCommand,
)
from app.contracts.ports.clock import Clock
from app.contracts.statistics import ServiceStatistics
from app.contracts.wire.integrations import heartbeat_view
from app.services.audit.log import AuditLog
from app.services.definitions.catalog import DefinitionCatalog
from app.services.integrations.ports import IntegrationPorts
from app.services.integrations.registration_faults import RegistrationFaults
from app.services.integrations.registration_members import given_members, registration_hash
from app.services.integrations.registry import MAX_ATTEMPTS, IntegrationRegistry
from app.services.integrations.secrets import new_secret, rotated

log = structlog.get_logger("integrations")

MAX_SERVICES = 500
"""Registrations of a database: each is compared with every committed change."""
MAX_COUNTED = 1000
"""States with undelivered events are counted up to so many."""
SELECTING = ("events", "flows", "steps")
"""Members that select changes: after a change of them the answer waits until all workers know it."""


class RegisteredService(Struct, frozen=True):
    """A service as its administrators see it.

    ``secret`` is the new secret of a registration that was made, or whose secret was rotated; it is not shown
    again. ``waiting`` counts the states with undelivered events, at most ``MAX_COUNTED``. ``stream_key`` is
    the key of its Redis stream, if it has one.
    """

    integration: Integration
    health: IntegrationHealth
    secret: str | UnsetType = UNSET
    waiting: int | UnsetType = UNSET
    stream_key: str | UnsetType = UNSET


class IntegrationAdministration:
    """Registers and administers services.

    Administrators may do everything. A service may do what concerns itself alone; all others are refused, in
    the same way whether or not there is such a service. Every method but ``list_all`` and ``register`` raises
    ServiceNotFoundError.
    """

    def __init__(
        self,
        registry: IntegrationRegistry,
        ports: IntegrationPorts,
        catalog: DefinitionCatalog,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._audit = audit
        self._registry = registry
        self._store = ports.registrations
        self._ports = ports
        self._faults = RegistrationFaults(catalog, ports.webhooks.address_fault)
        self._clock = clock

    async def list_all(self, caller: Caller) -> list[RegisteredService]:
        """Return all services, by alias."""
        require_administrator(caller)
        return await self._list()

    async def statistics(self) -> tuple[ServiceStatistics, ...]:
        """Return figures of all services, by alias."""
        return tuple(
            ServiceStatistics(
                alias=each.integration.alias,
                enabled=each.integration.enabled,
                breaker=each.health.breaker,
                delivered=each.health.delivered,
                failed=each.health.failed,
                internal=each.health.internal,
                heartbeat=UNSET
                if each.integration.heartbeat is UNSET
                else heartbeat_view(each.integration.heartbeat),
            )
            for each in await self._list()
        )

    async def _list(self) -> list[RegisteredService]:
        found = await self._store.list_all()
        health = {each.alias: each for each in await self._store.list_health()}
        return [
            RegisteredService(
                each,
                health.get(each.alias) or IntegrationHealth(alias=each.alias),
                stream_key=self._stream_key(each),
            )
            for each in found
        ]

    async def read(self, alias: str, caller: Caller) -> RegisteredService:
        """Return a service, with the number of states whose events wait."""
        require_manager(caller, alias)
        found = await self._registry.stored(alias)
        return await self._shown(found, waiting=await self._ports.lanes.count_due(alias, MAX_COUNTED))

    async def register(
        self,
        alias: str,
        command: RegistrationCommand,
        caller: Caller,
        *,
        expected: Collection[int] | None = None,
    ) -> RegisteredService:
        """Register a service, or set members of its registration.

        When this returns, every change that is committed from now on is delivered, on all workers.

        Args:
            alias: The name by which steps refer to the service.
            command: The members to set.
            caller: An administrator, or the service itself.
            expected: The revisions that may be changed; None: any, or none.

        Raises:
            InsufficientPermissionsError: The caller is neither.
            InvalidRequestError: With every fault of the registration.
            ServiceConflictError: It is at another revision, or changed meanwhile.
        """
        require_manager(caller, alias)
        stored = await self._store.get(alias)
        faults = await self._faults.find(alias, command, stored, own=not caller.is_administrator)
        if stored is None and not faults and len(await self._store.list_all()) >= MAX_SERVICES:
            faults = [Fault("", f"there are {MAX_SERVICES} services already; remove one that is not used")]
        if faults:
            raise InvalidRequestError(faults)
        given = given_members(command)
        if stored is None:
            if expected is not None:
                raise ServiceConflictError(alias, None)
            return await self._create(alias, given, caller)
        changed = await self._change(
            "service.update", alias, caller, lambda found: structs.replace(found, **given), expected
        )
        if changed.url != stored.url:  # what failed at the former address need not fail at this one
            await self._deliver_now(alias)
        if any(getattr(changed, name) != getattr(stored, name) for name in SELECTING):
            await self._registry.settle()
        return await self._shown(changed)

    async def _change(
        self,
        action: str,
        alias: str,
        caller: Caller,
        change: Callable[[Integration], Integration],
        expected: Collection[int] | None = None,
    ) -> Integration:
        """Change a registration, as an act of the audit log."""
        async with self._audit.act(action, f"service:{alias}", caller) as act:

            def noted(found: Integration) -> Integration:
                act.before = registration_hash(found)
                return change(found)

            changed = await self._registry.change(alias, noted, expected)
            act.after = registration_hash(changed)
        return changed

    async def _create(self, alias: str, given: dict[str, Any], caller: Caller) -> RegisteredService:
        now = self._clock.now()
        secret = new_secret(now)
        created = Integration(
            alias=alias, secrets=(secret,), registered_at=now, updated_at=now, revision=1, **given
        )
        async with self._audit.act("service.create", f"service:{alias}", caller) as act:
            if not await self._registry.add(created):
                raise ServiceConflictError(alias, 1)
            act.after = registration_hash(created)
        await self._registry.settle()
        log.info("service registered", service=alias)
        return await self._shown(created, secret=secret.secret)

    async def remove(self, alias: str, caller: Caller, *, expected: Collection[int] | None = None) -> None:
        """Remove a service with its keys, its undelivered events, its log, dead letters and stream."""
        require_administrator(caller)
        found = await self._registry.stored(alias)
        if expected is not None and found.revision not in expected:
            raise ServiceConflictError(alias, found.revision)
        before = registration_hash(found)
        async with self._audit.act("service.delete", f"service:{alias}", caller, before=before):
            await self._remove(found)

    async def _remove(self, found: Integration) -> None:
        alias = found.alias
        await self._ports.api_keys.delete_of(alias)
        await self._store.delete(alias)
        await self._registry.announce(alias)
        await self._registry.settle()  # until then other workers mark changes for it
        if await self._store.get(alias) is not None:
            log.info("service registered anew during its removal", service=alias)
            return  # its lanes have changes that the new registration must receive
        await self._ports.lanes.delete_of_integration(alias)
        await self._ports.letters.delete_of_integration(alias)
        await self._ports.log.delete_of_integration(alias)
        if found.stream:
            try:
                await self._ports.streams.delete(alias)
            except BusUnavailableError:
                log.warning("stream of service not removed", service=alias)
        log.info("service removed", service=alias)

    async def rotate(self, alias: str, command: RotateCommand, caller: Caller) -> RegisteredService:
        """Make a new secret; older ones sign too until they expire."""
        require_manager(caller, alias)
        now = self._clock.now()
        fresh = new_secret(now)
        end = timedelta(seconds=command.expires_in)
        changed = await self._change(
            "service.rotate",
            alias,
            caller,
            lambda found: structs.replace(found, secrets=rotated(found.secrets, fresh, now, end)),
        )
        log.info("secret of service rotated", service=alias, secret_id=fresh.id)
        return await self._shown(changed, secret=fresh.secret)

    async def enable(self, alias: str, command: EnableCommand, caller: Caller) -> RegisteredService:
        """Deliver events to a service that was disabled or away, all those that waited or some of them.

        Raises:
            InsufficientPermissionsError: An administrator has disabled it, and the caller is none.
            InvalidRequestError: The choice is incomplete.
        """
        require_manager(caller, alias)
        backlog = self._backlog(command)

        def enabled(found: Integration) -> Integration:
            if found.disabled_by == "administrator" and not caller.is_administrator:
                raise InsufficientPermissionsError(
                    "An administrator has disabled this service; ask one to enable it"
                )
            return structs.replace(
                found, enabled=True, disabled_reason=UNSET, disabled_by=UNSET, backlog=backlog
            )

        changed = await self._change("service.enable", alias, caller, enabled)
        await self._deliver_now(alias)
        log.info("service enabled", service=alias, backlog=command.backlog)
        return await self._shown(changed)

    async def disable(self, alias: str, command: DisableCommand, caller: Caller) -> RegisteredService:
        """Deliver no events to a service; they wait."""
        require_manager(caller, alias)
        administers = caller.is_administrator
        reason = command.reason if command.reason is not UNSET else "disabled on request"

        def disabled(found: Integration) -> Integration:
            if found.disabled_by == "administrator" and not administers:
                return found
            by = "administrator" if administers else "receiver"
            return structs.replace(found, enabled=False, disabled_reason=reason, disabled_by=by)

        changed = await self._change("service.disable", alias, caller, disabled)
        log.info("service disabled", service=alias, reason=reason)
        return await self._shown(changed)

    async def report(self, alias: str, command: HeartbeatCommand, caller: Caller) -> Heartbeat:
        """Store the report of a service about itself, which statistics show."""
        require_manager(caller, alias)
        heartbeat = Heartbeat(command.status, self._clock.now(), command.message)
        if not await self._store.put_heartbeat(alias, heartbeat):
            raise ServiceNotFoundError(alias)
        return heartbeat

    def _backlog(self, command: EnableCommand) -> BacklogPolicy | UnsetType:
        if (command.backlog == "since") != (command.since is not UNSET):
            message = 'must be given with the backlog "since", and with no other one'
            raise InvalidRequestError([Fault("/since", message)])
        if command.since is not UNSET:
            return BacklogPolicy("skip", command.since)
        if command.backlog == "all":
            return UNSET
        return BacklogPolicy("newest" if command.backlog == "newest" else "skip", self._clock.now())

    async def _deliver_now(self, alias: str) -> None:
        """Let deliveries begin at once, whatever failed before."""
        await self._close_breaker(alias)
        await self._ports.lanes.make_due(alias, self._clock.now())

    async def _close_breaker(self, alias: str) -> None:
        for _ in range(MAX_ATTEMPTS):
            found = next((each for each in await self._store.list_health() if each.alias == alias), None)
            if found is None or found.breaker == "closed":
                return
            closed = IntegrationHealth(alias=alias, revision=found.revision + 1)
            if await self._store.put_health(closed):
                return

    async def _shown(
        self,
        integration: Integration,
        *,
        secret: str | UnsetType = UNSET,
        waiting: int | UnsetType = UNSET,
    ) -> RegisteredService:
        alias = integration.alias
        health = next((each for each in await self._store.list_health() if each.alias == alias), None)
        return RegisteredService(
            integration,
            health or IntegrationHealth(alias=alias),
            secret,
            waiting,
            self._stream_key(integration),
        )

    def _stream_key(self, integration: Integration) -> str | UnsetType:
        return self._ports.streams.key(integration.alias) if integration.stream else UNSET
