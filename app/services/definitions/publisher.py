"""Definitions: published as versions that never change, from callers and from sources."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from msgspec import Struct, convert, to_builtins

from app.contracts.callers import Caller
from app.contracts.definition import (
    ExpectedVersion,
    Finding,
    FlowDefinition,
    VersionInfo,
    is_expected,
)
from app.contracts.errors import (
    FlowExistsError,
    FlowNotFoundError,
    InvalidDefinitionError,
    NotOutrankedError,
    VersionConflictError,
)
from app.contracts.flow import Flow, FlowPatch
from app.contracts.identifiers import require_flow
from app.contracts.pages import Page
from app.contracts.ports.bus import EventBus
from app.contracts.ports.clock import Clock
from app.contracts.ports.definitions import DefinitionStore
from app.contracts.results import Published
from app.flow.values.canonical import canonical
from app.flow.values.struct_errors import faults_of
from app.flow.versions.precedence import Decision, Offer, is_from_source, is_same_flow, precedence
from app.services.audit.log import SERVER_FLOW, AuditLog
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.checks import DefinitionChecks
from app.services.definitions.publication import Publication
from app.services.definitions.sourced_flow import SourcedFlow, SyncResult
from app.services.definitions.visibility import Visibility

PAGE_SIZE = 200
MAX_ATTEMPTS = 5
"""Attempts to publish a flow of a source while others publish it too."""


class Definitions:
    """Publishes and reads versions of flows.

    Reading raises InsufficientPermissionsError if the newest version hides the flow from the caller.
    """

    def __init__(
        self,
        store: DefinitionStore,
        catalog: DefinitionCatalog,
        access: Visibility,
        bus: EventBus,
        clock: Clock,
        checks: DefinitionChecks,
        audit: AuditLog,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._access = access
        self._checks = checks
        self._publication = Publication(store, catalog, bus, clock, audit)
        self.outranked: dict[str, SourcedFlow] = {}
        """Flows of sources that are not published, because a caller's version takes precedence; by slug."""

    async def current(self, flow_id: str, caller: Caller) -> FlowDefinition:
        """Return the newest version. Raises FlowNotFoundError."""
        require_flow(flow_id)
        await self._access.require_visible(flow_id, caller)
        return await self._catalog.current(flow_id)

    async def newest(self, flow_id: str, caller: Caller) -> FlowDefinition | None:
        """Return the newest version, also of a retired flow; None if there is none."""
        require_flow(flow_id)
        await self._access.require_visible(flow_id, caller)
        return await self._catalog.newest(flow_id)

    async def version(self, flow_id: str, version: int, caller: Caller) -> FlowDefinition:
        """Return a version, also of a retired flow. Raises FlowNotFoundError."""
        require_flow(flow_id)
        await self._access.require_visible(flow_id, caller, version)
        found = await self._catalog.version(flow_id, version)
        if found is None:
            raise FlowNotFoundError(flow_id, version)
        return found

    async def versions(
        self,
        flow_id: str,
        caller: Caller,
        *,
        before: int | None = None,
        limit: int | None = None,
    ) -> list[VersionInfo]:
        """Return summaries of versions, newest first. Raises FlowNotFoundError.

        Args:
            flow_id: The flow.
            caller: The reader.
            before: Only versions with smaller numbers.
            limit: The largest number of summaries, None for all.
        """
        require_flow(flow_id)
        await self._access.require_visible(flow_id, caller)
        found = await self._store.versions(flow_id, before, limit)
        if not found and before is None:
            raise FlowNotFoundError(flow_id)
        return found

    async def page(self, after_flow: str | None, limit: int, *, caller: Caller) -> Page[FlowDefinition]:
        """List the newest versions of the flows that the caller may see, without retired ones, by slug.

        Only the last page may be empty. The key of the next page is the slug of the last flow on this one, so
        that it never names a flow that the caller must not see.
        """
        while True:
            page = await self._store.list_latest(after_flow, limit)
            visible = [found for found in page.items if self._access.may_list(found.flow, caller)]
            if page.next is None:
                return Page(visible)
            if visible:
                return Page(visible, visible[-1].flow.flow)
            after_flow = page.next

    async def all(self, *, caller: Caller) -> AsyncIterator[FlowDefinition]:
        """List everything that ``page`` lists, page by page."""
        after = None
        while True:
            page = await self.page(after, PAGE_SIZE, caller=caller)
            for definition in page.items:
                yield definition
            if page.next is None:
                return
            after = page.next

    async def check(self, raw: object, caller: Caller) -> list[Finding]:
        """Return everything wrong with a definition; store nothing.

        Raises:
            RateLimitedError: Too many checks are waiting, or the caller has used up its share.
            CheckTimeoutError: The check took too long.
        """
        return await self._checks.check(raw, caller)

    async def parse(self, raw: object) -> Flow:
        """Return the flow of a valid definition; store nothing. Raises InvalidDefinitionError."""
        flow, _ = await self.parse_with_warnings(raw)
        return flow

    async def parse_with_warnings(self, raw: object) -> tuple[Flow, list[Finding]]:
        """Return the flow as ``parse`` does, and the warnings of the check."""
        return await self._checks.parse_for_publishing(raw)

    async def create(self, raw: Flow | object, *, actor: str, source: str) -> FlowDefinition:
        """Publish a flow that does not exist or is retired.

        Raises:
            InvalidDefinitionError: The definition has faults.
            FlowExistsError: There is such a flow.
        """
        flow = await self.parse(_to_builtins(raw))
        newest = await self._store.latest(flow.flow)
        if newest is not None and not newest.retired:
            raise FlowExistsError(flow.flow, newest.version)
        return await self._publication.publish(flow, newest, actor=actor, source=source)

    async def update(
        self,
        flow_id: str,
        changes: FlowPatch | object,
        *,
        actor: str,
        source: str,
        expected_version: ExpectedVersion = None,
    ) -> FlowDefinition:
        """Publish the newest version with top-level members replaced, if that changes anything.

        Raises:
            FlowNotFoundError: There is no such flow.
            InvalidDefinitionError: The result has faults.
            VersionConflictError: The newest version is not an expected one, or it changed meanwhile.
        """
        require_flow(flow_id)
        newest = await self._store.latest(flow_id)
        if newest is None or newest.retired:
            raise FlowNotFoundError(flow_id)
        if not is_expected(newest.version, expected_version):
            raise VersionConflictError(flow_id, newest.version)
        given = _to_builtins(changes)
        faults = faults_of(canonical(given), FlowPatch)
        if faults:
            raise InvalidDefinitionError(faults)
        flow = await self.parse({**to_builtins(newest.flow), **convert(given, dict[str, Any])})
        return await self._publish_change(flow, newest, actor=actor, source=source)

    async def put(
        self, raw: object, *, actor: str, source: str, expected_version: ExpectedVersion = None
    ) -> Published:
        """Publish a flow, new or existing, unless it equals the newest version.

        Raises:
            InvalidDefinitionError: It has faults.
            VersionConflictError: The newest version is not an expected one, or it changed meanwhile.
            FlowNotFoundError: A version is expected and there is no such flow.
        """
        flow = await self.parse(_to_builtins(raw))
        return await self.put_parsed(flow, actor=actor, source=source, expected_version=expected_version)

    async def put_parsed(
        self, flow: Flow, *, actor: str, source: str, expected_version: ExpectedVersion = None
    ) -> Published:
        """Publish a flow that ``parse`` returned, as ``put`` does."""
        newest = await self._store.latest(flow.flow)
        if newest is None or newest.retired:
            if expected_version is not None:
                raise FlowNotFoundError(flow.flow)
            made = await self._publication.publish(flow, newest, actor=actor, source=source)
            return Published(made, published=True)
        if not is_expected(newest.version, expected_version):
            raise VersionConflictError(flow.flow, newest.version)
        definition = await self._publish_change(flow, newest, actor=actor, source=source)
        return Published(definition, definition is not newest)

    async def retire(
        self, flow_id: str, *, actor: str, source: str, expected_version: ExpectedVersion = None
    ) -> None:
        """End a flow by a last version that nothing starts on.

        Raises:
            FlowNotFoundError: There is no such flow, or it is retired.
            VersionConflictError: The newest version is not an expected one, or it changed meanwhile.
        """
        require_flow(flow_id)
        newest = await self._store.latest(flow_id)
        if newest is None or newest.retired:
            raise FlowNotFoundError(flow_id)
        if not is_expected(newest.version, expected_version):
            raise VersionConflictError(flow_id, newest.version)
        await self._publication.publish(newest.flow, newest, actor=actor, source=source, retired=True)

    async def publish_from_source(
        self, offered: SourcedFlow, *, changed: bool, since: int | None, hold_back: Callable[[str], bool]
    ) -> SyncResult:
        """Publish a flow read from a source if it takes precedence over the newest stored version.

        Args:
            offered: The flow, as ``app.flow.versions.precedence`` compares it with the newest version.
            changed: The source offers another flow than before.
            since: The newest version after the last offer, None if nothing was offered before.
            hold_back: Returns true for what a version names as its source, if that source comes first and
                cannot be read now.
        """
        flow = offered.flow
        self.outranked.pop(flow.flow, None)
        offer = Offer(flow, offered.overrides, offered.creates, changed, since)
        newest = None if changed else await self._catalog.newest(flow.flow)
        for _ in range(MAX_ATTEMPTS):
            newest = newest or await self._store.latest(flow.flow)
            decision = await self._decide(offer, newest, hold_back)
            if decision is Decision.OUTRANKED and newest is not None:
                self.outranked[flow.flow] = offered
                return SyncResult(newest.version, outranked_by=newest)
            if decision is Decision.UP_TO_DATE and newest is not None:
                return SyncResult(newest.version)
            if decision is not Decision.PUBLISH:
                return SyncResult(None)
            try:
                made = await self._publication.publish(flow, newest, actor=SERVER_FLOW, source=offered.source)
                return SyncResult(made.version, published=True)
            except VersionConflictError:  # another worker published the same, or a caller came first
                newest = None
        return SyncResult(None)

    async def _decide(
        self, offer: Offer, newest: FlowDefinition | None, hold_back: Callable[[str], bool]
    ) -> Decision:
        missing_above = newest is not None and is_from_source(newest) and hold_back(newest.source)
        decision = precedence(offer, newest, missing_above=missing_above)
        if decision is Decision.NEEDS_HISTORY and newest is not None and offer.since is not None:
            published_since = await self._had_flow(offer.flow, offer.since, newest.version)
            decision = precedence(offer, newest, missing_above=missing_above, published_since=published_since)
        return decision

    async def _had_flow(self, flow: Flow, after: int, before: int) -> bool:
        """Return true if a version between two others had the flow."""
        for number in range(before - 1, after, -1):
            found = await self._store.get(flow.flow, number)
            if found is not None and is_same_flow(found.flow, flow):
                return True
        return False

    async def hand_back(self, flow_id: str) -> FlowDefinition:
        """Publish the flow of a source over a caller's version, so that changes of the source apply again.

        Raises:
            FlowNotFoundError: There is no such flow.
            NotOutrankedError: The newest version comes from a source already, or no source has the flow.
            VersionConflictError: Another version was published meanwhile.
        """
        require_flow(flow_id)
        newest = await self._store.latest(flow_id)
        offered = self.outranked.get(flow_id)
        if newest is None:
            raise FlowNotFoundError(flow_id)
        if offered is None or is_from_source(newest):
            raise NotOutrankedError(flow_id, newest.source)
        made = await self._publication.publish(offered.flow, newest, actor=SERVER_FLOW, source=offered.source)
        del self.outranked[flow_id]
        return made

    async def _publish_change(
        self, flow: Flow, newest: FlowDefinition, *, actor: str, source: str
    ) -> FlowDefinition:
        if is_same_flow(flow, newest.flow):
            return newest
        return await self._publication.publish(flow, newest, actor=actor, source=source)


def _to_builtins(raw: object) -> object:
    return to_builtins(raw) if isinstance(raw, Struct) else raw
