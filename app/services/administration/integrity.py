"""The soundness check: compares states with their history and definitions, before a user meets the
damage."""

import structlog

from app.contracts.errors import FlowStateCorruptionError
from app.contracts.ports.clock import Clock
from app.contracts.ports.reports import CorruptionReports
from app.contracts.ports.states import DamagedState, StateStore, StoredState
from app.services.delivery.relay import Relay
from app.services.states.recovery import Recovery

log = structlog.get_logger("soundness")

STATES_PER_RUN = 100
REPORTED = 100


class IntegrityCheck:
    """Walks through all states, some in each run, and looks again at those that were reported.

    It begins at a random one, so that restarts do not leave some unchecked for ever.
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
        """Report what is not sound, in the log and for the statistics; withdraw what is by now."""
        reported = await self._reports.list_reasons(REPORTED)
        sound = []
        for found in await self._next_states():
            if not await self.is_sound(found):
                continue
            if isinstance(found, StoredState) and not _waits(found, reported.get(found.state.key, "")):
                sound.append(found.state.key)
        others = {key: reason for key, reason in reported.items() if key not in sound}
        healed = [key for key, reason in others.items() if await self._is_sound_now(key, reason)]
        await self._reports.withdraw([*healed, *(key for key in sound if key in reported)])

    async def list_reasons(self, limit: int) -> dict[str, str]:
        """The reported states by key, oldest report first, with what was found."""
        return await self._reports.list_reasons(limit)

    async def _next_states(self) -> list[StoredState | DamagedState]:
        """The states of this run; after the last state, those at the beginning."""
        if self._checked_up_to is None:
            self._checked_up_to = await self._states.random_key() or ""
        found = await self._states.walk(self._checked_up_to, STATES_PER_RUN)
        missing = STATES_PER_RUN - len(found)
        if missing:
            begun_at, found_keys = self._checked_up_to, {_key_of(state) for state in found}
            first = await self._states.walk("", missing)
            found += [
                state for state in first if _key_of(state) <= begun_at and _key_of(state) not in found_keys
            ]
        self._checked_up_to = _key_of(found[-1]) if found else ""
        return found

    async def is_sound(self, found: StoredState | DamagedState) -> bool:
        """Check a state, and report it unless it is sound."""
        reason = await self._reason_of(found)
        if reason is None:
            return True
        key = _key_of(found)
        if await self._reports.report(key, reason, self._clock.now()):
            log.error("unsound state", code=FlowStateCorruptionError.code, state=key, reason=reason)
        return False

    async def _reason_of(self, found: StoredState | DamagedState) -> str | None:
        """Why a state is not sound, or why a record in its outbox is not delivered."""
        unsound = await self._recovery.find_inconsistency(found)
        if unsound is not None:
            return unsound.reason
        return self._relay.set_aside_reason(found) if isinstance(found, StoredState) else None

    async def _is_sound_now(self, key: str, reason: str) -> bool:
        flow_id, _, user_id = key.partition(":")
        found = await self._states.load_or_salvage(flow_id, user_id)
        if found is None:
            return True
        waits = isinstance(found, StoredState) and _waits(found, reason)
        return not waits and await self._reason_of(found) is None


def _waits(found: StoredState, reason: str) -> bool:
    """True if a record that a report names is still in the outbox. The worker that set it aside may be
    another one, or have ended."""
    return any(record.id in reason for record in found.pending)


def _key_of(found: StoredState | DamagedState) -> str:
    return found.position.key if isinstance(found, DamagedState) else found.state.key
