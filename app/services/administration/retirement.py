"""Retirement: the end of a flow and, by force, of its running states."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime

import structlog

from app.contracts.commands import Origin
from app.contracts.definition import ExpectedVersion, is_expected
from app.contracts.errors import (
    FlowError,
    FlowNotFoundError,
    StoreUnavailableError,
    VersionConflictError,
)
from app.contracts.identifiers import require_flow
from app.contracts.ports.clock import Clock
from app.contracts.ports.definitions import DefinitionStore
from app.contracts.ports.states import StateFilter, StateStore
from app.contracts.results import Retired
from app.contracts.state import FlowState
from app.flow import rules
from app.services.audit.log import AuditLog
from app.services.definitions.publisher import Definitions
from app.services.states.changes import StateChanges
from app.services.states.state_command import ProposedChange, StateCommand

log = structlog.get_logger("retirement")

CONCURRENCY = 100
"""States that are ended at a time, so that their changes share commands."""
MAX_PASSES = 10
MAX_STATES = 10_000
"""States that one call ends."""


class Retirement:
    """Retires flows. Idempotent: states that have already ended are skipped."""

    def __init__(
        self,
        states: StateStore,
        definitions: Definitions,
        store: DefinitionStore,
        changes: StateChanges,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._states = states
        self._definitions = definitions
        self._store = store
        self._changes = changes
        self._audit = audit
        self._clock = clock

    async def retire(
        self,
        flow_id: str,
        origin: Origin,
        *,
        source: str,
        force: bool = False,
        expected_version: ExpectedVersion = None,
    ) -> Retired:
        """Publish the last version of a flow, on which nothing starts.

        Args:
            flow_id: The flow.
            origin: The source of the request.
            source: The source that the version names.
            force: Also clear its active and paused states, at most ``MAX_STATES`` of them. The flow may be
                retired already.
            expected_version: The newest version must be this one, or one of these.

        Raises:
            FlowNotFoundError: There is no such flow, or it is retired already.
            VersionConflictError: The newest version is not an expected one.
        """
        require_flow(flow_id)
        newest = await self._store.latest(flow_id)
        if force and newest is not None and newest.retired:
            if not is_expected(newest.version, expected_version):
                raise VersionConflictError(flow_id, newest.version)
        else:
            await self._definitions.retire(
                flow_id, actor=origin.actor, source=source, expected_version=expected_version
            )
        if not force:
            return Retired()
        async with self._audit.act("states.end", f"flow:{flow_id}", origin.caller) as act:
            done = await self._end_states(flow_id, origin)
            act.details.update(ended=done.ended, failed=done.failed, more=done.more)
        return done

    async def _end_states(self, flow_id: str, origin: Origin) -> Retired:
        """End states in passes, until one finds none: a worker that does not know yet may start more."""
        # A request id stands for one change of one state.
        origin = Origin(origin.caller, client=origin.client, audited=True)
        ended = 0
        failed: set[str] = set()
        for _ in range(MAX_PASSES):
            before = ended
            async for states in self._running(flow_id):
                outcomes = await asyncio.gather(*(self._end(state, origin) for state in states))
                ended += outcomes.count(True)
                failed |= {s.key for s, done in zip(states, outcomes, strict=True) if done is False}
                if ended + len(failed) >= MAX_STATES:
                    return Retired(ended, len(failed), more=True)
            if ended == before:
                return Retired(ended, len(failed))
        return Retired(ended, len(failed), more=True)

    async def _running(self, flow_id: str) -> AsyncIterator[list[FlowState]]:
        """Iterate over active and paused states in one pass, as a state may change from one to the other."""
        only, after = StateFilter(flow_id=flow_id), None
        while True:
            page = await self._states.find(only, after, CONCURRENCY, self._clock.now())
            yield [state for state in page.states if state.status != "completed"]
            if page.next is None:
                return
            after = page.next

    async def _end(self, state: FlowState, origin: Origin) -> bool | None:
        """End a state. Return false if that failed, None if it had ended or completed."""

        async def decide(present: FlowState | None, now: datetime) -> ProposedChange | None:
            if present is None or present.status == "completed":
                return None
            return ProposedChange("cleared", "cleared", rules.end(present, "cleared", now))

        try:
            _, ended = await self._changes.execute(
                StateCommand(state.id, "cleared", None, origin, replaces=True), decide
            )
        except (StoreUnavailableError, FlowNotFoundError):
            raise
        except FlowError as error:
            log.error("state not cleared", state=state.key, code=error.code)
            return False
        return ended or None
