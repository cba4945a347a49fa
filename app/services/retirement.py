"""Retirement: the end of a flow, and by force of the states that run in it."""

import asyncio
from datetime import datetime

import structlog
from msgspec import structs

from app.contracts.command import Origin
from app.contracts.errors import FlowError, FlowNotFoundError, StoreUnavailableError
from app.contracts.outcome import Retired
from app.contracts.ports import Clock, StateFilter, StateStore
from app.contracts.state import FlowState
from app.flow import rules
from app.services.catalog import DefinitionCatalog
from app.services.changes import StateChanges, request
from app.services.commits import Change
from app.services.definitions import Definitions

log = structlog.get_logger("retirement")

TOGETHER = 100
"""How many states are ended at a time, so that their changes share commands."""
MOST = 10_000
"""How many states one call ends."""


class Retirement:
    """Retires flows. Ending their states is repeatable: what ended already is not there any more."""

    def __init__(
        self,
        states: StateStore,
        definitions: Definitions,
        catalog: DefinitionCatalog,
        changes: StateChanges,
        clock: Clock,
    ) -> None:
        self._states = states
        self._definitions = definitions
        self._catalog = catalog
        self._changes = changes
        self._clock = clock

    async def retire(
        self,
        flow_id: str,
        origin: Origin,
        *,
        source: str,
        force: bool = False,
        expected_version: int | None = None,
    ) -> Retired:
        """Publish the last version of a flow, on which nothing starts. ``force``: also clear its states that
        are not completed, the paused ones too, at most ``MOST`` of them; then a flow that is retired already
        is taken as well. Raises FlowNotFoundError, VersionConflictError."""
        newest = await self._catalog.newest(flow_id)
        if not (force and newest is not None and newest.retired):
            await self._definitions.retire(
                flow_id, actor=origin.actor, source=source, expected_version=expected_version
            )
        return await self._end_states(flow_id, origin) if force else Retired()

    async def _end_states(self, flow_id: str, origin: Origin) -> Retired:
        # A request's id is for one change of one state.
        origin = Origin(actor=origin.actor, client=origin.client, caller=origin.caller)
        done = Retired()
        for status in ("active", "paused"):
            after = None
            while True:
                only = StateFilter(flow_id=flow_id, status=status)
                page = await self._states.find(only, after, TOGETHER, self._clock.now())
                outcomes = await asyncio.gather(*(self._end(state, origin) for state in page.states))
                done = structs.replace(
                    done, ended=done.ended + outcomes.count(True), failed=done.failed + outcomes.count(False)
                )
                if page.next is None:
                    break
                if done.ended + done.failed >= MOST:
                    return structs.replace(done, more=True)
                after = page.next
        return done

    async def _end(self, state: FlowState, origin: Origin) -> bool | None:
        """Whether a state was ended; None: it had ended, or completed."""

        async def decide(present: FlowState | None, now: datetime) -> Change | None:
            if present is None or present.status == "completed":
                return None
            return Change("cleared", "cleared", rules.end(present, "cleared", now))

        try:
            _, ended = await self._changes.execute(
                request(state.user_id, state.flow, "cleared", None, origin, replaces=True), decide
            )
        except (StoreUnavailableError, FlowNotFoundError):
            raise
        except FlowError as error:
            log.error("state not ended", state=state.key, code=error.code)
            return False
        return ended or None
