"""Which step of an old version goes on at which of a new one, and what becomes of a state that is moved."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import UNSET, structs

from app.contracts.definition import FlowDefinition
from app.contracts.errors import Fault, InvalidRequestError
from app.contracts.flow import FlowStep
from app.contracts.state import FlowState
from app.flow import timers
from app.flow.position import current_step
from app.flow.undo import undo_roles
from app.flow.values.struct_errors import escape

RUNNING = ("active", "paused")
"""States that are moved. What is completed or has ended stays as it is."""


class StepMapping:
    """The mapping from the steps of one version to those of another: ``given`` (null: leave the states of
    that step where they are), and for all others the step of the same name."""

    def __init__(
        self, old: FlowDefinition, new: FlowDefinition, given: Mapping[str, str | None] | None = None
    ) -> None:
        self.old = old
        self.new = new
        self.given = dict(given or {})

    def faults(self) -> list[Fault]:
        """Everything wrong with what was given; pointers into it."""
        found = []
        for step, to in self.given.items():
            at = f"/{escape(step)}"
            if step not in self.old.flow.steps:
                found.append(Fault(at, _unknown(step, self.old)))
            if to is not None and to not in self.new.flow.steps:
                found.append(Fault(at, _unknown(to, self.new)))
        return found

    def target(self, step: str) -> str | None:
        """Where states of a step go on; None: nowhere."""
        to = self.given.get(step, step)
        return to if to in self.new.flow.steps else None

    def leaves(self, step: str) -> bool:
        """True if states of a step are to stay on the old version."""
        return step in self.given and self.given[step] is None

    def moves(self, state: FlowState) -> bool:
        """True for a state that the mapping is for: it runs on the old version, and is not left."""
        runs = state.status in RUNNING and state.version == self.old.version
        return runs and not self.leaves(state.step)

    def move(self, state: FlowState, now: datetime) -> FlowState:
        """The state on the new version. Payload, message, service and a hold stay; ``previous`` is mapped as
        well, and dropped when it goes nowhere. The timeout of the same step goes on if it is the same; any
        other counts from now. Raises FlowStateCorruptionError when the state does not fit its own version,
        InvalidRequestError when it has nowhere to go on."""
        source = current_step(self.old, state)
        to = self.target(state.step)
        if to is None:
            message = f"is not in version {self.new.version}: map it to a step of that version"
            raise InvalidRequestError([Fault(f"/mapping/{escape(state.step)}", message)])
        target = self.new.flow.steps[to]
        entered = timers.placement_changes(target, state, now)
        if self._goes_on(source, target):
            entered |= {"timeout_at": state.timeout_at, "timeout_left_ms": state.timeout_left_ms}
        return structs.replace(
            state,
            version=self.new.version,
            revision=state.revision + 1,
            **entered,
            **self._previous(state),
            updated_at=now,
        )

    def _previous(self, state: FlowState) -> dict[str, Any]:
        """The previous step, and the roles that may go back to it: they stay."""
        to = None if state.previous is UNSET else self.target(state.previous)
        if to is None:
            return {"previous": UNSET, "undo_roles": UNSET}
        return {"previous": to, "undo_roles": undo_roles(self.old, state)}

    def _goes_on(self, source: FlowStep, target: FlowStep) -> bool:
        """True if a state stays in its step, maybe by another name, and waits as long there."""
        if target.step != source.step and target.step in self.old.flow.steps:
            return False
        old, new = source.timeout, target.timeout
        return old is not None and new is not None and (old.after, old.resume) == (new.after, new.resume)


def _unknown(step: str, definition: FlowDefinition) -> str:
    listed = ", ".join(definition.flow.steps)
    return f"version {definition.version} has no step {step!r}; it has {listed}"
