"""Erasure of a person from the states of others, whose records verify afterwards."""

from datetime import datetime
from typing import Protocol

import structlog
from msgspec import Struct, structs

from app.contracts.commands import Origin
from app.contracts.errors import FlowNotFoundError, FlowNotStartedError, StateBusyError
from app.contracts.ports.clock import Clock
from app.contracts.ports.history import HistoryStore
from app.contracts.ports.states import DamagedState, StateStore, StoredState
from app.contracts.pseudonyms import state_without_person
from app.contracts.record import HistoryPosition, HistoryRecord, position_of, state_after
from app.contracts.state import TERMINAL_STATUSES, FlowState, StateId, Status
from app.flow import rules
from app.kit.ids import later_id, new_id
from app.services.delivery.relay import Relay
from app.services.states.committer import SYSTEM, CommandContext, Committer
from app.services.states.recovery import Recovery
from app.services.states.state_command import ProposedChange

log = structlog.get_logger("personal-data")

MAX_ATTEMPTS = 50
_END_OF_HISTORY = HistoryPosition("\U0010ffff", 0, "")


class EventsOfState(Protocol):
    """The stored events of a state, which are copies of data of its history."""

    async def remove_person(self, state_id: StateId, user_id: str) -> None:
        """Make those anew that name a person, who is not in the history any more."""


class Pseudonymised(Struct, frozen=True):
    """The result of an erasure of a person from the states of others: how many states and records changed."""

    states: int = 0
    records: int = 0


class Pseudonymisation:
    """Puts the pseudonym of a person in the place of the id, wherever states of others name the person.

    Four steps make a state ready, in this order, so that the id cannot come back:

    1. Every commit is delivered to the history, so that a worker that delivers one late finds it there and
       does not insert it again.
    2. A commit of the kind ``pseudonymised`` removes the id from the state. It is conditional like every
       commit: one that is made meanwhile from the state before fails, or makes this one be repeated.
    3. The records before that commit are rewritten in the history.
    4. Dead letters with events of these records are rewritten.
    """

    def __init__(
        self,
        states: StateStore,
        history: HistoryStore,
        commits: Committer,
        recovery: Recovery,
        relay: Relay,
        letters: EventsOfState,
        clock: Clock,
    ) -> None:
        self._states = states
        self._history = history
        self._commits = commits
        self._recovery = recovery
        self._relay = relay
        self._letters = letters
        self._clock = clock

    async def erase(self, user_id: str, origin: Origin) -> Pseudonymised:
        """Replace a person in all states of others and in their histories.

        Idempotent: it can be repeated after a failure, and finds what is left in the history.

        Raises:
            StateBusyError: A state changed too often meanwhile.
        """
        if origin.actor == user_id:  # otherwise the receipts would name the person again
            origin = SYSTEM
        named = set(await self._states.ids_naming(user_id)) | set(await self._history.ids_naming(user_id))
        records = 0
        for state_id in sorted(named, key=lambda each: each.key):
            records += await self._erase_from(state_id, user_id, origin)
        if named:
            log.info("person replaced by pseudonyms", states=len(named), records=records)
        return Pseudonymised(len(named), records)

    async def _erase_from(self, state_id: StateId, user_id: str, origin: Origin) -> int:
        receipt = await self._commit_without(state_id, user_id, origin)
        until = _END_OF_HISTORY if receipt is None else position_of(receipt)
        records = await self._history.replace_person(state_id, user_id, until)
        await self._letters.remove_person(state_id, user_id)
        await self._states.drop_damaged(state_id)
        return records

    async def _commit_without(self, state_id: StateId, user_id: str, origin: Origin) -> HistoryRecord | None:
        """Commit the state without the person; None if there is nothing but refused attempts."""
        for _ in range(MAX_ATTEMPTS):
            found = await self._states.load_or_salvage(state_id)
            if isinstance(found, DamagedState):
                await self._recovery.recover(state_id, origin)
                continue
            if found is not None:
                receipt = await self._commit_after(found, user_id, origin)
            elif (newest := await self._history.newest(state_id)) is None:
                return None
            elif await self._restored(state_id, origin):
                continue
            elif isinstance(newest, HistoryRecord):
                receipt = await self._commit_tombstone(newest, user_id, origin)
            else:
                return None
            if receipt is not None:
                return receipt
        raise StateBusyError(state_id.flow_id)

    async def _commit_after(self, found: StoredState, user_id: str, origin: Origin) -> HistoryRecord | None:
        failed = await self._relay.deliver(found.deliverable)
        change, now = self._change(found.state, user_id)
        receipt = await self._commits.make(found, change, CommandContext(origin), now)
        if receipt is not None:
            # A record that cannot be delivered must not stay in the outbox with the id.
            await self._states.release(failed)
        return receipt

    async def _restored(self, state_id: StateId, origin: Origin) -> bool:
        """Restore a state whose document is lost; return false if it had ended by now."""
        try:
            await self._recovery.recover(state_id, origin)
        except (FlowNotStartedError, FlowNotFoundError):
            return False
        return True

    async def _commit_tombstone(
        self, newest: HistoryRecord, user_id: str, origin: Origin
    ) -> HistoryRecord | None:
        """Commit the end of a state whose document was removed after it, in an epoch of its own."""
        last = state_without_person(state_after(newest), user_id)
        now = max(self._clock.now(), last.updated_at)
        status: Status = "cleared" if last.status == "cleared" else "expired"
        ended = structs.replace(
            rules.end(last, status, now), epoch=later_id(newest.epoch, new_id()), revision=0
        )
        change = ProposedChange("pseudonymised", "pseudonymised", ended)
        return await self._commits.replace(None, newest.hash or "", change, CommandContext(origin), now)

    def _change(self, state: FlowState, user_id: str) -> tuple[ProposedChange, datetime]:
        now = max(self._clock.now(), state.updated_at)
        ended = state.status in TERMINAL_STATUSES  # updated_at is when it ended, and remains so
        after = structs.replace(
            state_without_person(state, user_id),
            revision=state.revision + 1,
            updated_at=state.updated_at if ended else now,
        )
        return ProposedChange("pseudonymised", "pseudonymised", after), now
