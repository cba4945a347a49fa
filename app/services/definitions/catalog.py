"""The catalogue: the newest definition of each flow, and every version that a state is pinned to."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from app.contracts.definition import FlowDefinition
from app.contracts.errors import FlowNotFoundError, FlowStateCorruptionError, StoreUnavailableError
from app.contracts.events import EVERYONE, DefinitionChanged, Event, Gap, Topic
from app.contracts.ports.definitions import DefinitionStore
from app.contracts.state import FlowState

MAX_VERSIONS = 10_000
STALE_SECONDS = 1.0
"""How long the last known version is used before the store is read again, while it is unavailable."""


class DefinitionCatalog:
    """Definitions in memory.

    A version never changes, so that it is retained. Which version is the newest is read again after
    ``max_age``, or when a worker announces a change.
    """

    def __init__(self, store: DefinitionStore, max_age: timedelta) -> None:
        self._store = store
        self._max_age = max_age.total_seconds()
        self._versions: dict[tuple[str, int], FlowDefinition] = {}
        self._newest: dict[str, tuple[int, float]] = {}
        self._invalidations = 0
        self._loading: dict[object, asyncio.Task[FlowDefinition | None]] = {}

    async def current(self, flow_id: str) -> FlowDefinition:
        """Return the newest version. Raises FlowNotFoundError if there is none, or the flow is retired."""
        definition = await self.newest(flow_id)
        if definition is None or definition.retired:
            raise FlowNotFoundError(flow_id)
        return definition

    async def newest(self, flow_id: str) -> FlowDefinition | None:
        """Return the newest version, also of a retired flow; None if there never was one."""
        newest = self._newest.get(flow_id)
        now = asyncio.get_running_loop().time()
        if newest is not None and now < newest[1]:
            found = self._versions.get((flow_id, newest[0]))
            if found is not None:
                return found
        invalidations = self._invalidations
        try:
            definition = await self._load(flow_id, lambda: self._store.latest(flow_id))
        except StoreUnavailableError:
            last = None if newest is None else self._versions.get((flow_id, newest[0]))
            if newest is None or last is None:
                raise
            # Nobody can have published meanwhile; the store is read again in a moment, not by every request.
            self._newest[flow_id] = (newest[0], asyncio.get_running_loop().time() + STALE_SECONDS)
            return last
        if (
            definition is not None and invalidations == self._invalidations
        ):  # nothing was published while it was read
            self._newest[flow_id] = (definition.version, now + self._max_age)
        return definition

    async def all_newest(self) -> list[FlowDefinition]:
        """Return the newest version of each flow that has a readable one."""
        found = []
        for flow_id in await self._store.list_flow_ids():
            with suppress(FlowStateCorruptionError):
                found.append(await self.newest(flow_id))
        return [each for each in found if each is not None]

    async def pinned(self, state: FlowState) -> FlowDefinition:
        """Return the version that a state runs on. Raises FlowStateCorruptionError if it is missing."""
        definition = await self.version(state.flow, state.version)
        if definition is None:
            raise FlowStateCorruptionError(
                state.user_id, state.flow, f"version {state.version} of the flow does not exist"
            )
        return definition

    async def current_or_pinned(self, state: FlowState) -> FlowDefinition:
        """Return the newest version, or the state's own if the flow is retired."""
        try:
            return await self.current(state.flow)
        except FlowNotFoundError:
            return await self.pinned(state)

    async def version(self, flow_id: str, version: int) -> FlowDefinition | None:
        """Return a version, None if it does not exist."""
        key = (flow_id, version)
        return self._versions.get(key) or await self._load(key, lambda: self._store.get(*key))

    def invalidate(self, flow_id: str) -> None:
        """Read the newest version of a flow from the store at its next use."""
        self._invalidations += 1
        self._newest.pop(flow_id, None)
        self._loading.pop(flow_id, None)

    def on_gap(self, gap: Gap) -> None:
        """Invalidate all flows if changes of them may have been missed."""
        if not gap.concerns(EVERYONE):
            return
        for flow_id in list(self._newest):
            self.invalidate(flow_id)
        self._invalidations += 1

    def on_event(self, _: Topic, event: Event) -> None:
        """Invalidate a flow of which another worker published a version."""
        if isinstance(event, DefinitionChanged):
            self.invalidate(event.flow_id)

    async def _load(
        self, key: object, read: Callable[[], Awaitable[FlowDefinition | None]]
    ) -> FlowDefinition | None:
        """Load a version; concurrent requests for it share one read."""

        async def load() -> FlowDefinition | None:
            try:
                definition = await read()
            finally:
                if self._loading.get(key) is asyncio.current_task():
                    del self._loading[key]
            if definition is None:
                return None
            version = (definition.flow.flow, definition.version)
            if version not in self._versions and len(self._versions) >= MAX_VERSIONS:
                self._versions.pop(next(iter(self._versions)))
            # The object that is there stays: what is compiled for a definition is found by its identity.
            return self._versions.setdefault(version, definition)

        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.ensure_future(load())
        return await asyncio.shield(task)
