"""The durable sink that notes which changes concern which integrations."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import structlog
from msgspec import UNSET, structs

from app.contracts.deliveries import LaneId, LanePosition, Mark
from app.contracts.errors import FlowError, StoreUnavailableError
from app.contracts.flow import Flow
from app.contracts.integration import Integration
from app.contracts.ports.clock import Clock
from app.contracts.ports.deliveries import DeliveryLanes
from app.contracts.record import HistoryRecord, Kind, state_after
from app.flow.step_services import owner_of
from app.services.definitions.catalog import DefinitionCatalog
from app.services.integrations.matching import concerns, enters_step, leaves_own_step, waits_at_own_step

log = structlog.get_logger("integrations")

ERASING: frozenset[Kind] = frozenset({"erased", "pseudonymised"})
"""Kinds after which the records before must be read anew. So they are marked even if they concern nobody."""

MarkedCallback = Callable[[str, Sequence[HistoryRecord]], None]
"""Receives the alias of an integration, and changes for which its lanes were marked."""


class RegisteredIntegrations(Protocol):
    """The registrations, as a cache has them."""

    async def current(self) -> tuple[Integration, ...]:
        """Return the registrations, mostly at once. Raises StoreUnavailableError."""


class IntegrationSink:
    """Marks the lanes of integrations that changes concern; the events themselves stay in the history.

    A record leaves its outbox only after its lanes are marked, so that no event is lost with this worker.
    """

    durable = True

    def __init__(
        self,
        registry: RegisteredIntegrations,
        lanes: DeliveryLanes,
        catalog: DefinitionCatalog,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._lanes = lanes
        self._catalog = catalog
        self._clock = clock
        self._callbacks: list[MarkedCallback] = []

    def on_marked(self, callback: MarkedCallback) -> None:
        """Call back after lanes were marked, so that this worker can deliver without reading the records."""
        self._callbacks.append(callback)

    async def deliver(self, batch: Sequence[HistoryRecord]) -> set[str]:
        """Mark the lanes of all integrations that the changes concern.

        Raises:
            StoreUnavailableError: The lanes, a definition or the registrations cannot be reached.
        """
        delivered = {record.id for record in batch}
        integrations = await self._registry.current()
        if not integrations:
            return delivered
        addressees = _Addressees(integrations)
        flows: dict[tuple[str, int], Flow | None] = {}
        marks: dict[str, Mark] = {}
        marked: dict[str, list[HistoryRecord]] = {}
        for record in batch:
            if record.after is UNSET:
                continue
            version = (record.flow_id, record.version)
            if version not in flows:
                flows[version] = await self._flow(*version)
            for mark in _marks(addressees.of(record, flows[version]), record, flows[version]):
                key = LaneId(mark.alias, mark.state_id).key
                marks[key] = _joined(marks.get(key), mark)
                if record.timestamp >= mark.since:
                    marked.setdefault(mark.alias, []).append(record)
        if marks:
            await self._lanes.mark(list(marks.values()), self._clock.now())
            self._call_back(marked)
        return delivered

    def _call_back(self, marked: Mapping[str, Sequence[HistoryRecord]]) -> None:
        for callback in self._callbacks:
            for alias, records in marked.items():
                callback(alias, records)

    async def _flow(self, flow_id: str, version: int) -> Flow | None:
        """Return a version of a flow; None if it cannot be read, which must not stop the relay."""
        try:
            definition = await self._catalog.version(flow_id, version)
        except StoreUnavailableError:
            raise
        except FlowError as error:
            log.error("definition unreadable, owners of steps unknown", flow=flow_id, code=error.code)
            return None
        if definition is None:
            log.error("definition missing, owners of steps unknown", flow=flow_id, version=version)
        return None if definition is None else definition.flow


class _Addressees:
    """Finds the few of many integrations that a change can concern."""

    def __init__(self, integrations: Sequence[Integration]) -> None:
        self._by_alias = {integration.alias: integration for integration in integrations}
        self._by_flow: dict[str, list[Integration]] = {}
        self._owners: dict[tuple[str, int, str], list[Integration]] = {}
        for integration in integrations:
            for flow_id in set(integration.flows or ()):
                self._by_flow.setdefault(flow_id, []).append(integration)

    def of(self, record: HistoryRecord, flow: Flow | None) -> Iterator[Integration]:
        """Yield those that list the flow, or that own a step of it."""
        listed = self._by_flow.get(record.flow_id, [])
        yield from listed
        if flow is None:
            return
        key = (record.flow_id, record.version, record.service)
        owners = self._owners.get(key)
        if owners is None:
            aliases = {owner_of(flow, step, record.service) for step in flow.steps.values()}
            owners = [self._by_alias[alias] for alias in sorted(aliases) if alias in self._by_alias]
            self._owners[key] = owners
        yield from (integration for integration in owners if integration not in listed)


def _marks(integrations: Iterable[Integration], record: HistoryRecord, flow: Flow | None) -> list[Mark]:
    """Return a mark for each integration that a change concerns, or for which a state waits or waited.

    Which states wait for an integration does not depend on the events that it receives.
    """
    state = state_after(record)
    position = LanePosition(record.epoch, record.revision)
    marks = []
    for integration in integrations:
        alias = integration.alias
        waits = waits_at_own_step(alias, state, flow)
        is_delivered = record.timestamp >= integration.registered_at and concerns(integration, record, flow)
        if waits or leaves_own_step(alias, record, flow) or is_delivered or record.kind in ERASING:
            since = record.timestamp if waits else None
            stays = waits and not enters_step(record)
            marks.append(Mark(alias, state.id, position, integration.registered_at, since, stays))
    return marks


def _joined(before: Mark | None, mark: Mark) -> Mark:
    """Return one mark for two changes of a state, of which ``mark`` is mostly the later one."""
    if before is None:
        return mark
    if mark.position < before.position:
        return before
    if not mark.stays:
        return mark
    if before.waits_since is None:  # it waits again
        return structs.replace(mark, stays=False)
    return structs.replace(mark, waits_since=before.waits_since, stays=before.stays)
