"""The plan of a recovery: which state comes in the place of a damaged one."""

from datetime import datetime
from typing import Any, Literal

from msgspec import Struct, structs

from app.contracts.commands import StartCommand
from app.contracts.definition import FlowDefinition
from app.contracts.errors import FlowNotStartedError
from app.contracts.ports.states import DamagedState, StoredState
from app.contracts.record import HistoryRecord, UnreadableRecord
from app.contracts.state import TERMINAL_STATUSES, FlowState, StateId
from app.flow import rules
from app.kit.ids import later_id, new_id
from app.services.states.consistency import MAX_CREDIBLE_LEAD
from app.services.states.state_command import ProposedChange

Found = StoredState | DamagedState
"""A state as it was read, or the readable parts of a damaged one."""


class RecoveryPlan(Struct, frozen=True):
    """The steps of a recovery.

    Attributes:
        action: ``rebuilt`` from ``last``, or ``restarted`` at the initial step.
        reason: What is wrong with the state.
        head: The hash of the last record that has one; "" if none has.
        newest: The last record at all, None if there is none.
        record: The last valid record, None if there is none.
        last: The state to which ``record`` led, or the one in the document if there are no records.
    """

    action: Literal["rebuilt", "restarted"]
    reason: str
    head: str
    newest: HistoryRecord | UnreadableRecord | None
    record: HistoryRecord | None = None
    last: FlowState | None = None

    @property
    def is_erased(self) -> bool:
        """True if the user's data was erased: then there is nothing to return to."""
        return self.record is not None and self.record.is_erased

    @property
    def description(self) -> dict[str, Any]:
        """The repair as people see it; recorded with it."""
        description = {"action": self.action, "reason": self.reason}
        if self.last is not None:
            description["step"] = self.last.step
        if self.record is not None:
            description["record"] = self.record.id
        return description

    def change(
        self, state_id: StateId, found: Found | None, definition: FlowDefinition, now: datetime
    ) -> tuple[ProposedChange, datetime]:
        """Return the change that carries out the plan, and its time.

        Args:
            state_id: The state.
            found: The state that is there, None if its document is lost.
            definition: The version of ``last``, the newest one if there is none.
            now: The present time.

        Raises:
            FlowNotStartedError: The document is lost, and the state would have ended by now.
        """
        if self.last is None:
            epoch = new_id() if self.newest is None else later_id(self.newest.epoch, new_id())
            after = rules.start(definition, state_id, epoch, StartCommand(), now)
            return self._proposed(after, definition), now
        last = self.last
        if found is None and last.is_gone_at(now):
            raise FlowNotStartedError(state_id.flow_id)
        now = max(now, last.updated_at)
        after = rules.recover(last, *self.position(found), now)
        if last.status not in TERMINAL_STATUSES and (last.is_gone_at(now) or self.is_erased):
            ended = rules.end(after, "cleared" if self.is_erased else "expired", now)
            after = structs.replace(ended, revision=after.revision)
        return self._proposed(after, definition), now

    def _proposed(self, after: FlowState, definition: FlowDefinition) -> ProposedChange:
        return ProposedChange.of_kind("recovered", definition, after, self.description)

    def position(self, found: Found | None) -> tuple[str, int]:
        """Return an epoch and a revision after all known ones.

        So no client that saw one of them takes the recovered state for an older one. An epoch whose end is
        not known, as its document is lost or of another epoch, is not continued.
        """
        newest = self.newest or self.last
        if newest is None:
            return new_id(), 0
        epoch, revision = newest.epoch, newest.revision
        if found is None:
            return later_id(epoch, new_id()), 0
        position = found.position if isinstance(found, DamagedState) else found.state.position
        if isinstance(position.epoch, str) and position.epoch > epoch:
            return later_id(position.epoch, new_id()), 0
        if position.epoch != epoch or type(position.revision) is not int:
            return epoch, revision + 1
        if 0 < position.revision - revision <= MAX_CREDIBLE_LEAD:
            revision = position.revision
        return epoch, revision + 1
