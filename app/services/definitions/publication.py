"""Publication of one version of a flow: audited, stored, and announced to all workers."""

import structlog
from msgspec import UNSET, to_builtins

from app.contracts.definition import FlowDefinition
from app.contracts.errors import BusUnavailableError, VersionConflictError
from app.contracts.events import DefinitionChanged
from app.contracts.flow import Flow
from app.contracts.ports.bus import EventBus
from app.contracts.ports.clock import Clock
from app.contracts.ports.definitions import DefinitionStore
from app.kit.hash_chain import json_hash
from app.services.audit.log import AuditLog
from app.services.definitions.catalog import DefinitionCatalog

log = structlog.get_logger("definitions")


class Publication:
    """Publishes versions."""

    def __init__(
        self,
        store: DefinitionStore,
        catalog: DefinitionCatalog,
        bus: EventBus,
        clock: Clock,
        audit: AuditLog,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._bus = bus
        self._clock = clock
        self._audit = audit

    async def publish(
        self, flow: Flow, newest: FlowDefinition | None, *, actor: str, source: str, retired: bool = False
    ) -> FlowDefinition:
        """Publish a flow as the version after ``newest``.

        Raises:
            VersionConflictError: Another version was published meanwhile.
            StoreUnavailableError: The version, or its audit entry, cannot be stored.
        """
        version = 1 if newest is None else newest.version + 1
        action = "create" if newest is None or newest.retired else "update"
        async with self._audit.act(
            f"definition.{'delete' if retired else action}",
            f"flow:{flow.flow}",
            actor,
            before=UNSET if newest is None else definition_hash(newest.flow),
            details={"version": version, "source": source},
        ) as act:
            definition = FlowDefinition(
                flow=flow,
                version=version,
                published_at=self._clock.now(),
                published_by=actor,
                source=source,
                retired=retired,
            )
            if not await self._store.publish(definition):
                current = await self._store.latest(flow.flow)
                raise VersionConflictError(flow.flow, current.version if current else version)
            act.after = definition_hash(flow)
        self._catalog.invalidate(flow.flow)
        try:
            await self._bus.publish([DefinitionChanged(flow_id=flow.flow)])
        except BusUnavailableError:
            log.warning(
                "definition change not announced, other workers see it when their cache expires",
                flow=flow.flow,
            )
        return definition


def definition_hash(flow: Flow) -> str:
    """Return the SHA-256 of a flow as deterministic JSON."""
    return json_hash(to_builtins(flow))
