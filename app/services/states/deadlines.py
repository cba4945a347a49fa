"""Changes of a state by time alone: it expires, or the timeout of its step runs a transition."""

from collections.abc import Callable
from datetime import datetime

import structlog
from msgspec import UNSET

from app.contracts.commands import trusted_origin
from app.contracts.errors import FlowError, StoreUnavailableError
from app.contracts.state import TERMINAL_STATUSES, FlowState
from app.flow import rules
from app.services.definitions.catalog import DefinitionCatalog
from app.services.states.attempt import DueChange
from app.services.states.committer import SYSTEM
from app.services.states.state_command import ProposedChange

log = structlog.get_logger("deadlines")

MAX_REPORTED = 10_000
"""States whose failed timeout was logged, so that it is logged once."""
TIMER = trusted_origin("timer", client="service")


class TimeNotTrustedError(StoreUnavailableError):
    """Raised when only time decides about a state, and this worker's clock is not trusted."""

    def __init__(self) -> None:
        super().__init__("the clock of this worker is wrong")
        self.message = (
            "This worker's clock is wrong, so it cannot decide whether the state has expired or timed out. "
            "Nothing has changed; try again"
        )


class Deadlines:
    """Decides which change is due, unless the clock of this worker is not trusted."""

    def __init__(self, catalog: DefinitionCatalog, is_time_trusted: Callable[[], bool]) -> None:
        self._catalog = catalog
        self._is_time_trusted = is_time_trusted
        self._reported: set[str] = set()

    async def due(self, state: FlowState, now: datetime) -> DueChange | None:
        """Return the change that is due at ``now``, None if none is.

        Expiry comes first: a client that read that a state is gone must not see it return.

        Raises:
            TimeNotTrustedError: The clock of this worker is not trusted.
        """
        if state.status in TERMINAL_STATUSES:
            return None
        if state.status == "paused":
            return self._due_while_paused(state, now)
        if state.is_gone_at(now):
            self._require_trusted_time()
            return DueChange(ProposedChange("expired", "expired", rules.end(state, "expired", now)), SYSTEM)
        if state.timeout_at is UNSET or state.timeout_at > now or state.status != "active":
            return None
        self._require_trusted_time()
        try:
            definition = await self._catalog.pinned(state)
            found = rules.timeout(definition, state, now)
        except FlowError as error:  # it must not stop the commands of callers
            if state.key not in self._reported:
                if len(self._reported) >= MAX_REPORTED:
                    self._reported.clear()
                self._reported.add(state.key)
                log.error("timeout failed", state=state.key, code=error.code, reason=error.message)
            return None
        if found is None:
            return None
        transition, after = found
        change = ProposedChange("transitioned", transition, after, ttl=definition.flow.ttl)
        return DueChange(change, TIMER)

    def _due_while_paused(self, state: FlowState, now: datetime) -> DueChange | None:
        """Stop the clock of a state that a version before 0.5 paused, as MongoDB would remove it soon."""
        if state.expires_at is UNSET or state.expires_at > now:
            return None
        self._require_trusted_time()
        return DueChange(ProposedChange("paused", "paused", rules.stop_expiry(state, now)), SYSTEM)

    def _require_trusted_time(self) -> None:
        if not self._is_time_trusted():
            raise TimeNotTrustedError
