"""The soundness check: compares states with their history and definitions, before a user meets the
damage."""

import structlog

from app.contracts.errors import FlowStateCorruptionError
from app.contracts.ports import Clock, CorruptionReports, DamagedState, StateStore, StoredState
from app.services.recovery import Recovery

log = structlog.get_logger("soundness")

SAMPLE = 100
REPORTED = 100


class SoundnessCheck:
    """Samples states at random, and looks again at those that were reported."""

    def __init__(
        self, states: StateStore, recovery: Recovery, reports: CorruptionReports, clock: Clock
    ) -> None:
        self._states = states
        self._recovery = recovery
        self._reports = reports
        self._clock = clock

    async def run(self) -> None:
        """Report what is not sound, in the log and for the statistics; withdraw what is by now."""
        sound = []
        for found in await self._states.sample(SAMPLE):
            if not await self.is_sound(found):
                continue
            if isinstance(found, StoredState):
                sound.append(found.state.key)
        reported = set(await self._reports.list_keys(REPORTED))
        healed = [key for key in reported if key not in sound and await self._is_sound_now(key)]
        await self._reports.withdraw([*healed, *(key for key in sound if key in reported)])

    async def is_sound(self, found: StoredState | DamagedState) -> bool:
        """Whether a state is sound; if not, it is reported."""
        unsound = await self._recovery.examine(found)
        if unsound is None:
            return True
        key = found.position.key if isinstance(found, DamagedState) else found.state.key
        if await self._reports.report(key, unsound.reason, self._clock.now()):
            log.error("unsound state", code=FlowStateCorruptionError.code, state=key, reason=unsound.reason)
        return False

    async def _is_sound_now(self, key: str) -> bool:
        flow_id, _, user_id = key.partition(":")
        found = await self._states.salvage(flow_id, user_id)
        return found is None or await self._recovery.examine(found) is None
