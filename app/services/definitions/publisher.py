"""Definitions: published as versions that never change, from callers and from sources."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog
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
from app.contracts.events import DefinitionChanged
from app.contracts.flow import Flow, FlowPatch
from app.contracts.identifiers import require_flow
from app.contracts.pages import Page
from app.contracts.ports.bus import BusUnavailableError, EventBus
from app.contracts.ports.clock import Clock
from app.contracts.ports.definitions import DefinitionStore
from app.contracts.results import Published
from app.flow.validation import parse_flow
from app.flow.values.struct_errors import faults_of
from app.flow.versions.precedence import Decision, Offer, is_from_source, is_same_flow, precedence
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.checks import DefinitionChecks
from app.services.definitions.visibility import Visibility

log = structlog.get_logger("definitions")

PAGE_SIZE = 200
MAX_ATTEMPTS = 5
"""Attempts to publish a flow of a source while others publish it too."""


class Definitions:
    """Publishes and lists versions of flows. Who reads them and must not see a flow, as its newest version
    says, is told so by InsufficientPermissionsError; without a ``caller`` nothing is asked."""

    def __init__(
        self,
        store: DefinitionStore,
        catalog: DefinitionCatalog,
        access: Visibility,
        bus: EventBus,
        clock: Clock,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._access = access
        self._checks = DefinitionChecks()
        self._bus = bus
        self._clock = clock
        self.outranked: dict[str, SourcedFlow] = {}
        """Flows of sources that are not used, as a caller published or retired the newest version."""

    async def current(self, flow_id: str, caller: Caller) -> FlowDefinition:
        """The newest version. Raises FlowNotFoundError."""
        require_flow(flow_id)
        await self._access.require_visible(flow_id, caller)
        return await self._catalog.current(flow_id)

    async def version(self, flow_id: str, version: int, caller: Caller) -> FlowDefinition:
        """One version, also of a retired flow. Raises FlowNotFoundError."""
        require_flow(flow_id)
        await self._access.require_visible(flow_id, caller)
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
        """Summaries of versions, newest first, from before the version ``before``. Raises
        FlowNotFoundError."""
        require_flow(flow_id)
        await self._access.require_visible(flow_id, caller)
        found = await self._store.versions(flow_id, before, limit)
        if not found and before is None:
            raise FlowNotFoundError(flow_id)
        return found

    async def page(self, after_flow: str | None, limit: int, *, caller: Caller) -> Page[FlowDefinition]:
        """The newest versions of the flows that the caller may see, without retired ones, by slug.

        A page with a next one has at least one flow: its last slug is the key to go on after, so that no
        name of a flow that the caller must not see is shown.
        """
        while True:
            page = await self._store.list_latest(after_flow, limit)
            visible = [found for found in page.items if caller.has_a_role(found.flow.roles)]
            if page.next is None:
                return Page(visible)
            if visible:
                return Page(visible, visible[-1].flow.flow)
            after_flow = page.next

    async def all(self, *, caller: Caller) -> AsyncIterator[FlowDefinition]:
        """All of ``page``, page by page."""
        after = None
        while True:
            page = await self.page(after, PAGE_SIZE, caller=caller)
            for definition in page.items:
                yield definition
            if page.next is None:
                return
            after = page.next

    async def check(self, raw: object, caller: Caller) -> list[Finding]:
        """Everything wrong with a definition; stores nothing. In a thread, as a large one takes time. Raises
        RateLimitedError, CheckTimeoutError."""
        return await self._checks.check(raw, caller)

    async def parse(self, raw: object) -> Flow:
        """The flow, if it is sound; stores nothing. Raises InvalidDefinitionError."""
        flow, _ = await self.parse_with_warnings(raw)
        return flow

    async def parse_with_warnings(self, raw: object) -> tuple[Flow, list[Finding]]:
        """As ``parse``, with what the check advises."""
        return await self._checks.parse_for_publishing(parse_flow, raw)

    async def create(self, raw: Flow | object, *, actor: str, source: str) -> FlowDefinition:
        """Publish a flow that does not exist (or is retired). Raises InvalidDefinitionError,
        FlowExistsError."""
        flow = await self.parse(_to_builtins(raw))
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
        expected_version: ExpectedVersion = None,
    ) -> FlowDefinition:
        """Publish the newest version with top-level members replaced, if that changes anything.
        Raises FlowNotFoundError, InvalidDefinitionError, VersionConflictError when
        ``expected_version`` is not the newest."""
        require_flow(flow_id)
        newest = await self._store.latest(flow_id)
        if newest is None or newest.retired:
            raise FlowNotFoundError(flow_id)
        if not is_expected(newest.version, expected_version):
            raise VersionConflictError(flow_id, newest.version)
        given = _to_builtins(changes)
        faults = faults_of(given, FlowPatch)
        if faults:
            raise InvalidDefinitionError(faults)
        flow = await self.parse({**to_builtins(newest.flow), **convert(given, dict[str, Any])})
        return await self._publish_change(flow, newest, actor=actor, source=source)

    async def put(
        self, raw: object, *, actor: str, source: str, expected_version: ExpectedVersion = None
    ) -> Published:
        """Publish a flow as it is given, whether it exists or not, unless it is the newest version already.

        Raises:
            InvalidDefinitionError: It has faults.
            VersionConflictError: Somebody else published meanwhile, or the newest is not expected.
            FlowNotFoundError: A version is expected and there is none.
        """
        flow = await self.parse(_to_builtins(raw))
        return await self.put_parsed(flow, actor=actor, source=source, expected_version=expected_version)

    async def put_parsed(
        self, flow: Flow, *, actor: str, source: str, expected_version: ExpectedVersion = None
    ) -> Published:
        """As ``put``, for a flow that ``parse`` returned."""
        newest = await self._store.latest(flow.flow)
        if newest is None or newest.retired:
            if expected_version is not None:
                raise FlowNotFoundError(flow.flow)
            made = await self._publish(flow, newest, actor=actor, source=source)
            return Published(made, published=True)
        if not is_expected(newest.version, expected_version):
            raise VersionConflictError(flow.flow, newest.version)
        definition = await self._publish_change(flow, newest, actor=actor, source=source)
        return Published(definition, definition is not newest)

    async def retire(
        self, flow_id: str, *, actor: str, source: str, expected_version: ExpectedVersion = None
    ) -> None:
        """End a flow by a last version that nothing starts on. Raises FlowNotFoundError,
        VersionConflictError when ``expected_version`` is not the newest."""
        require_flow(flow_id)
        newest = await self._store.latest(flow_id)
        if newest is None or newest.retired:
            raise FlowNotFoundError(flow_id)
        if not is_expected(newest.version, expected_version):
            raise VersionConflictError(flow_id, newest.version)
        await self._publish(newest.flow, newest, actor=actor, source=source, retired=True)

    async def publish_from_source(
        self, offered: "SourcedFlow", *, changed: bool, since: int | None, hold_back: Callable[[str], bool]
    ) -> "SyncResult":
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
                made = await self._publish(flow, newest, actor="server-flow", source=offered.source)
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
        """True if a version between two others had the flow."""
        for number in range(before - 1, after, -1):
            found = await self._store.get(flow.flow, number)
            if found is not None and is_same_flow(found.flow, flow):
                return True
        return False

    async def hand_back(self, flow_id: str) -> FlowDefinition:
        """Publish what a source has in the place of a caller's version, so that changes of the source count.

        Raises:
            FlowNotFoundError: There is no such flow.
            NotOutrankedError: The source of the flow counts already, or none has it.
            VersionConflictError: A caller published another version meanwhile.
        """
        require_flow(flow_id)
        newest = await self._store.latest(flow_id)
        offered = self.outranked.get(flow_id)
        if newest is None:
            raise FlowNotFoundError(flow_id)
        if offered is None or is_from_source(newest):
            raise NotOutrankedError(flow_id, newest.source)
        made = await self._publish(offered.flow, newest, actor="server-flow", source=offered.source)
        del self.outranked[flow_id]
        return made

    async def _publish_change(
        self, flow: Flow, newest: FlowDefinition, *, actor: str, source: str
    ) -> FlowDefinition:
        if is_same_flow(flow, newest.flow):
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
    """A flow of a source. ``place`` says where it was read, ``source`` is what its version is to name;
    ``overrides``: the source comes before the database; ``creates``: the flow is published although the
    database does not have it."""

    flow: Flow
    place: str
    source: str
    overrides: bool = False
    creates: bool = True


class SyncResult(Struct, frozen=True):
    """The outcome for a flow that a source offered: the newest ``version`` now, None when it is to be offered
    again; whether that was ``published`` for it; and the version of a caller that counts more, if any."""

    version: int | None
    published: bool = False
    outranked_by: FlowDefinition | None = None

    def hides(self, offered: SourcedFlow) -> bool:
        """Return whether a caller's version is used and the flow of the source, which differs, is not."""
        newest = self.outranked_by
        return newest is not None and (newest.retired or not is_same_flow(newest.flow, offered.flow))


def _to_builtins(raw: object) -> object:
    return to_builtins(raw) if isinstance(raw, Struct) else raw
