"""The integrity check: compares states with their history and definitions, before users meet damage."""

import structlog

from app.contracts.errors import FlowStateCorruptionError
from app.contracts.ports.clock import Clock
from app.contracts.ports.reports import CorruptionReports
from app.contracts.ports.states import DamagedState, StateStore, StoredState
from app.contracts.state import id_from_key
from app.services.delivery.relay import Relay
from app.services.states.recovery import Recovery

log = structlog.get_logger("integrity")

STATES_PER_RUN = 100
MAX_RECHECKED = 100
"""Reported states that are checked again in each run."""


class IntegrityCheck:
    """Checks all states, some in each run, and the reported ones again.

    It starts at a random state, so that frequent restarts do not leave any state unchecked.
    """

    def __init__(
        self,
        states: StateStore,
        recovery: Recovery,
        relay: Relay,
        reports: CorruptionReports,
        clock: Clock,
    ) -> None:
        self._relay = relay
        self._states = states
        self._recovery = recovery
        self._reports = reports
        self._clock = clock
        self._checked_up_to: str | None = None

    async def run(self) -> None:
        """Check some states: report inconsistent ones, in the log too, and withdraw outdated reports."""
        reported = await self._reports.list_reasons(MAX_RECHECKED)
        consistent = []
        for found in await self._next_states():
            if not await self.check(found):
                continue
            if isinstance(found, StoredState) and not _is_undelivered(
                found, reported.get(found.state.key, "")
            ):
                consistent.append(found.state.key)
        others = {key: reason for key, reason in reported.items() if key not in consistent}
        repaired = [key for key, reason in others.items() if await self._is_consistent_now(key, reason)]
        await self._reports.withdraw([*repaired, *(key for key in consistent if key in reported)])

    async def list_reasons(self, limit: int) -> dict[str, str]:
        """Return the reported states by key, the oldest report first, with their reasons."""
        return await self._reports.list_reasons(limit)

    async def _next_states(self) -> list[StoredState | DamagedState]:
        """Return the states of this run; after the last state, the first ones follow."""
        if self._checked_up_to is None:
            self._checked_up_to = await self._states.random_key() or ""
        found = await self._states.walk(self._checked_up_to, STATES_PER_RUN)
        missing = STATES_PER_RUN - len(found)
        if missing:
            started_at, found_keys = self._checked_up_to, {_key_of(state) for state in found}
            first = await self._states.walk("", missing)
            found += [
                state for state in first if _key_of(state) <= started_at and _key_of(state) not in found_keys
            ]
        self._checked_up_to = _key_of(found[-1]) if found else ""
        return found

    async def check(self, found: StoredState | DamagedState) -> bool:
        """Check a state; report it and return false if it is inconsistent."""
        reason = await self._reason_of(found)
        if reason is None:
            return True
        key = _key_of(found)
        if await self._reports.report(key, reason, self._clock.now()):
            log.error("inconsistent state", code=FlowStateCorruptionError.code, state=key, reason=reason)
        return False

    async def _reason_of(self, found: StoredState | DamagedState) -> str | None:
        """Return the reason why a state is inconsistent, or why a record in its outbox is not delivered."""
        inconsistency = await self._recovery.find_inconsistency(found)
        if inconsistency is not None:
            return inconsistency.reason
        return self._relay.set_aside_reason(found) if isinstance(found, StoredState) else None

    async def _is_consistent_now(self, key: str, reason: str) -> bool:
        found = await self._states.load_or_salvage(id_from_key(key))
        if found is None:
            return True
        undelivered = isinstance(found, StoredState) and _is_undelivered(found, reason)
        return not undelivered and await self._reason_of(found) is None


def _is_undelivered(found: StoredState, reason: str) -> bool:
    """Return true if a record that a report names is still in the outbox.

    The worker that set it aside may be another one, or have ended.
    """
    return any(record.id in reason for record in found.pending)


def _key_of(found: StoredState | DamagedState) -> str:
    return found.position.key if isinstance(found, DamagedState) else found.state.key
