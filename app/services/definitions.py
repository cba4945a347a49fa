"""Definitions: published as versions that never change, from callers and from sources."""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct, convert, json, to_builtins

from app.contracts.definition import Finding, FlowDefinition
from app.contracts.errors import (
    FlowExistsError,
    FlowNotFoundError,
    InvalidDefinitionError,
    VersionConflictError,
)
from app.contracts.events import DefinitionChanged
from app.contracts.flow import Flow, FlowPatch
from app.contracts.ports import BusUnavailableError, Clock, DefinitionSource, DefinitionStore, EventBus
from app.flow.faults import faults_of
from app.flow.validation import check_flow, parse_flow
from app.services.catalog import DefinitionCatalog

log = structlog.get_logger("definitions")

PAGE = 200


class Definitions:
    """Publishes and lists versions of flows."""

    def __init__(
        self, store: DefinitionStore, catalog: DefinitionCatalog, bus: EventBus, clock: Clock
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._bus = bus
        self._clock = clock

    async def current(self, flow_id: str) -> FlowDefinition:
        """The newest version. Raises FlowNotFoundError."""
        return await self._catalog.current(flow_id)

    async def version(self, flow_id: str, version: int) -> FlowDefinition:
        """One version, also of a retired flow. Raises FlowNotFoundError."""
        found = await self._catalog.version(flow_id, version)
        if found is None:
            raise FlowNotFoundError(flow_id, version)
        return found

    async def versions(self, flow_id: str) -> list[FlowDefinition]:
        """All versions, newest first. Raises FlowNotFoundError."""
        found = await self._store.versions(flow_id)
        if not found:
            raise FlowNotFoundError(flow_id)
        return found

    async def page(self, after_flow: str | None, limit: int) -> list[FlowDefinition]:
        """The newest versions of flows that are not retired, by slug."""
        return await self._store.list_latest(after_flow, limit)

    async def all(self) -> AsyncIterator[FlowDefinition]:
        """The newest versions of all flows that are not retired, by slug."""
        after = None
        while page := await self.page(after, PAGE):
            for definition in page:
                yield definition
            after = page[-1].flow.flow

    def check(self, raw: object) -> list[Finding]:
        """Everything wrong with a definition; stores nothing."""
        return check_flow(raw)

    async def create(self, raw: Flow | object, *, actor: str, source: str) -> FlowDefinition:
        """Publish a flow that does not exist (or is retired). Raises InvalidDefinitionError,
        FlowExistsError."""
        flow, _ = parse_flow(_plain(raw))
        newest = await self._store.latest(flow.flow)
        if newest is not None and not newest.retired:
            raise FlowExistsError(flow.flow, newest.version)
        return await self._publish(flow, newest, actor=actor, source=source)

    async def update(
        self,
        flow_id: str,
        changes: FlowPatch | object,
        *,
        actor: str,
        source: str,
        expected_version: int | None = None,
    ) -> FlowDefinition:
        """Publish the newest version with top-level members replaced, if that changes anything.
        Raises FlowNotFoundError, InvalidDefinitionError, VersionConflictError when
        ``expected_version`` is not the newest."""
        newest = await self._store.latest(flow_id)
        if newest is None or newest.retired:
            raise FlowNotFoundError(flow_id)
        if expected_version not in (None, newest.version):
            raise VersionConflictError(flow_id, newest.version)
        given = _plain(changes)
        faults = faults_of(given, FlowPatch)
        if faults:
            raise InvalidDefinitionError(faults)
        flow, _ = parse_flow({**to_builtins(newest.flow), **convert(given, dict[str, Any])})
        return await self._publish_change(flow, newest, actor=actor, source=source)

    async def put(self, raw: object, *, actor: str, source: str) -> tuple[FlowDefinition, bool]:
        """Publish a flow as it is given, whether it exists or not; and whether that was needed.
        Raises InvalidDefinitionError, VersionConflictError."""
        flow, _ = parse_flow(_plain(raw))
        newest = await self._store.latest(flow.flow)
        if newest is None or newest.retired:
            return await self._publish(flow, newest, actor=actor, source=source), True
        definition = await self._publish_change(flow, newest, actor=actor, source=source)
        return definition, definition is not newest

    async def retire(self, flow_id: str, *, actor: str, source: str) -> None:
        """End a flow by a last version that nothing starts on. Raises FlowNotFoundError."""
        newest = await self._store.latest(flow_id)
        if newest is None or newest.retired:
            raise FlowNotFoundError(flow_id)
        await self._publish(newest.flow, newest, actor=actor, source=source, retired=True)

    async def take_up(self, found: Sequence["SourcedFlow"], *, override: bool) -> list[str]:
        """Publish flows of sources that the store has not; their slugs. A flow that was last
        published by a caller (or retired) stays as it is, unless ``override``."""
        published = []
        for sourced in found:
            flow = sourced.flow
            newest = await self._store.latest(flow.flow)
            if newest is not None and not _is_due(flow, newest, override=override):
                continue
            with suppress(VersionConflictError):  # another process took up the same
                source = f"file:{Path(sourced.place).name}"
                await self._publish(flow, newest, actor="server-flow", source=source)
                published.append(flow.flow)
        return published

    async def _publish_change(
        self, flow: Flow, newest: FlowDefinition, *, actor: str, source: str
    ) -> FlowDefinition:
        if _same(flow, newest.flow):
            return newest
        return await self._publish(flow, newest, actor=actor, source=source)

    async def _publish(
        self, flow: Flow, newest: FlowDefinition | None, *, actor: str, source: str, retired: bool = False
    ) -> FlowDefinition:
        definition = FlowDefinition(
            flow=flow,
            version=1 if newest is None else newest.version + 1,
            published_at=self._clock.now(),
            published_by=actor,
            source=source,
            retired=retired,
        )
        if not await self._store.publish(definition):
            current = await self._store.latest(flow.flow)
            raise VersionConflictError(flow.flow, current.version if current else definition.version)
        self._catalog.forget(flow.flow)
        try:
            await self._bus.publish([DefinitionChanged(flow_id=flow.flow)])
        except BusUnavailableError:
            log.warning("other workers see the new version when their cache ends", flow=flow.flow)
        return definition


class SourcedFlow(Struct, frozen=True):
    """A flow and the place that it was read from."""

    flow: Flow
    place: str


def read_sources(sources: Sequence[DefinitionSource]) -> list[SourcedFlow]:
    """The flows of all sources; of two with one slug the first counts. Warnings are logged.
    Raises InvalidDefinitionError naming every fault with its place, DefinitionSourceError."""
    found: dict[str, SourcedFlow] = {}
    for source in sources:
        for place, raw in source.read().items():
            try:
                flow, findings = parse_flow(raw)
            except InvalidDefinitionError as refusal:
                faults = (f"{place}: {_dotted(f.pointer)}: {f.message}" for f in refusal.faults)
                raise InvalidDefinitionError(refusal.faults, "; ".join(faults)) from None
            for finding in findings:
                log.warning("definition", place=place, at=finding.pointer, finding=finding.message)
            found.setdefault(flow.flow, SourcedFlow(flow, place))
    return list(found.values())


def _is_due(flow: Flow, newest: FlowDefinition, *, override: bool) -> bool:
    """Whether a flow of a source is to be published over the newest version in the store."""
    if _same(newest.flow, flow) and not newest.retired:
        return False
    return override or newest.source.startswith("file:")


def _same(one: Flow, other: Flow) -> bool:
    """Also in the order of steps and transitions, which counts, and in ``1`` not being ``true``."""
    return json.encode(one) == json.encode(other)


def _plain(raw: object) -> object:
    return to_builtins(raw) if isinstance(raw, Struct) else raw


def _dotted(pointer: str) -> str:
    return pointer.lstrip("/").replace("/", ".") or "(whole)"
