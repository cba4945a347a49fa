"""The catalog: which definition a flow has now, and every version that a state is pinned to."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from app.contracts.definition import FlowDefinition
from app.contracts.errors import FlowNotFoundError, FlowStateCorruptionError, StoreUnavailableError
from app.contracts.events import EVERYONE, DefinitionChanged, Event, Gap, Topic
from app.contracts.ports.definitions import DefinitionStore
from app.contracts.state import FlowState

PINNED_LIMIT = 10_000
STALE_SECONDS = 1.0


class DefinitionCatalog:
    """Definitions in memory. A version never changes, so that it is kept; which version is the
    newest is asked again after ``max_age``, or once a worker told of a change."""

    def __init__(self, store: DefinitionStore, max_age: timedelta) -> None:
        self._store = store
        self._max_age = max_age.total_seconds()
        self._versions: dict[tuple[str, int], FlowDefinition] = {}
        self._newest: dict[str, tuple[int, float]] = {}
        self._told = 0
        self._loading: dict[object, asyncio.Task[FlowDefinition | None]] = {}

    async def current(self, flow_id: str) -> FlowDefinition:
        """The newest version. Raises FlowNotFoundError when there is none, or it is retired."""
        definition = await self.newest(flow_id)
        if definition is None or definition.retired:
            raise FlowNotFoundError(flow_id)
        return definition

    async def newest(self, flow_id: str) -> FlowDefinition | None:
        """The newest version, also of a retired flow; None when there never was one."""
        newest = self._newest.get(flow_id)
        now = asyncio.get_running_loop().time()
        if newest is not None and now < newest[1]:
            found = self._versions.get((flow_id, newest[0]))
            if found is not None:
                return found
        told = self._told
        try:
            definition = await self._load(flow_id, lambda: self._store.latest(flow_id))
        except StoreUnavailableError:
            last = None if newest is None else self._versions.get((flow_id, newest[0]))
            if newest is None or last is None:
                raise
            # It cannot have been changed either; the store is asked again in a moment, not by everybody.
            self._newest[flow_id] = (newest[0], asyncio.get_running_loop().time() + STALE_SECONDS)
            return last
        if definition is not None and told == self._told:  # nothing was published while it was read
            self._newest[flow_id] = (definition.version, now + self._max_age)
        return definition

    async def pinned(self, state: FlowState) -> FlowDefinition:
        """The version that a state runs on. Raises FlowStateCorruptionError when it is gone."""
        definition = await self.version(state.flow, state.version)
        if definition is None:
            raise FlowStateCorruptionError(
                state.user_id, state.flow, f"version {state.version} of the flow does not exist"
            )
        return definition

    async def current_or_pinned(self, state: FlowState) -> FlowDefinition:
        """The newest version, or the state's own when the flow is retired."""
        try:
            return await self.current(state.flow)
        except FlowNotFoundError:
            return await self.pinned(state)

    async def version(self, flow_id: str, version: int) -> FlowDefinition | None:
        """One version, None when there is no such."""
        key = (flow_id, version)
        return self._versions.get(key) or await self._load(key, lambda: self._store.get(*key))

    def forget(self, flow_id: str) -> None:
        """Ask the store which version is the newest."""
        self._told += 1
        self._newest.pop(flow_id, None)
        self._loading.pop(flow_id, None)

    def missed(self, gap: Gap) -> None:
        """Ask the store for every flow when changes of them may have been missed."""
        if not gap.concerns(EVERYONE):
            return
        for flow_id in list(self._newest):
            self.forget(flow_id)
        self._told += 1

    def heard(self, _: Topic, event: Event) -> None:
        """Take notice of what another worker published."""
        if isinstance(event, DefinitionChanged):
            self.forget(event.flow_id)

    async def _load(
        self, key: object, read: Callable[[], Awaitable[FlowDefinition | None]]
    ) -> FlowDefinition | None:
        """Requests that miss together share one read."""

        async def load() -> FlowDefinition | None:
            try:
                definition = await read()
            finally:
                if self._loading.get(key) is asyncio.current_task():
                    del self._loading[key]
            if definition is None:
                return None
            version = (definition.flow.flow, definition.version)
            if version not in self._versions and len(self._versions) >= PINNED_LIMIT:
                self._versions.pop(next(iter(self._versions)))
            # The one that is there stays: what is compiled of it is known by its identity.
            return self._versions.setdefault(version, definition)

        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.ensure_future(load())
        return await asyncio.shield(task)
