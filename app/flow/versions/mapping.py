"""The mapping of steps from one version to another, and the migration of a state by it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import UNSET, structs

from app.contracts.definition import FlowDefinition
from app.contracts.errors import Fault, InvalidRequestError
from app.contracts.flow import FlowStep
from app.contracts.state import FlowState
from app.flow import timers
from app.flow.people.duties import recorded_runs
from app.flow.people.participants import awaited_roles, declared_participants
from app.flow.position import current_step
from app.flow.undo import undo_roles
from app.flow.values.struct_errors import escape

RUNNING = ("active", "paused")
"""Statuses of states that are moved. Completed and ended states stay as they are."""


class StepMapping:
    """The mapping from the steps of one version to those of another.

    Args:
        old: The version that the states run on.
        new: The version that they move to.
        given: Target steps by their old names; None leaves the states of a step on the old version. Any other
            step maps to the step of the same name.
    """

    def __init__(
        self, old: FlowDefinition, new: FlowDefinition, given: Mapping[str, str | None] | None = None
    ) -> None:
        self.old = old
        self.new = new
        self.given = dict(given or {})

    def faults(self) -> list[Fault]:
        """Return the faults of the given mapping, by JSON pointers into it."""
        found = []
        for step, to in self.given.items():
            at = f"/{escape(step)}"
            if step not in self.old.flow.steps:
                found.append(Fault(at, _unknown(step, self.old)))
            if to is not None and to not in self.new.flow.steps:
                found.append(Fault(at, _unknown(to, self.new)))
        return found

    def target(self, step: str) -> str | None:
        """Return the step at which states of a step continue; None if there is none."""
        to = self.given.get(step, step)
        return to if to in self.new.flow.steps else None

    def leaves(self, step: str) -> bool:
        """True if states of a step stay on the old version."""
        return step in self.given and self.given[step] is None

    def moves(self, state: FlowState) -> bool:
        """True if the mapping moves a state: it runs on the old version, and its step is not left."""
        runs = state.status in RUNNING and state.version == self.old.version
        return runs and not self.leaves(state.step)

    def move(self, state: FlowState, now: datetime) -> FlowState:
        """Return the state on the new version.

        Payload, message and service stay, and a paused state stays paused. ``previous`` is mapped as well,
        and dropped if it has no target. The timeout of the same step continues if it is the same; any other
        starts now. People whose role is no longer declared leave the state; claims and votes stay at the same
        step if the rules for them are the same.

        Raises:
            FlowStateCorruptionError: The state does not fit its own version.
            InvalidRequestError: Its step has no target.
        """
        source = current_step(self.old, state)
        to = self.target(state.step)
        if to is None:
            message = f"The step is not in version {self.new.version}: map it to a step of that version"
            raise InvalidRequestError([Fault(f"/mapping/{escape(state.step)}", message)])
        target = self.new.flow.steps[to]
        entered = timers.placement_changes(target, state, now)
        if self._continues_timeout(source, target):
            entered |= {"timeout_at": state.timeout_at, "timeout_left_ms": state.timeout_left_ms}
        return structs.replace(
            state,
            version=self.new.version,
            revision=state.revision + 1,
            **entered,
            **self._previous(state),
            **self._people(state, source, target),
            updated_at=now,
        )

    def _previous(self, state: FlowState) -> dict[str, Any]:
        """Return the changes of the previous step, and of the roles that may undo to it, which stay."""
        to = None if state.previous is UNSET else self.target(state.previous)
        if to is None:
            return {"previous": UNSET, "undo_roles": UNSET}
        return {"previous": to, "undo_roles": undo_roles(self.old, state)}

    def _continues_timeout(self, source: FlowStep, target: FlowStep) -> bool:
        """True if a state stays in its step with the same timeout."""
        if not self._stays(source, target):
            return False
        old, new = source.timeout, target.timeout
        return old is not None and new is not None and (old.after, old.resume) == (new.after, new.resume)

    def _stays(self, source: FlowStep, target: FlowStep) -> bool:
        """True if a state stays in its step, possibly renamed."""
        return target.step == source.step or target.step not in self.old.flow.steps

    def _people(self, state: FlowState, source: FlowStep, target: FlowStep) -> dict[str, Any]:
        """Return the changes of people: those with roles, their claims, votes and runs."""
        changes: dict[str, Any] = {}
        stays = self._stays(source, target)
        if state.participants is not UNSET:
            people = declared_participants(self.new.flow, state)
            paused = state.status == "paused"
            changes["participants"] = people
            changes["awaits"] = UNSET if paused else awaited_roles(self.new.flow, target, people)
        if state.claims is not UNSET:
            roles = self.new.flow.participants or {}
            claimable = {role for role, declared in roles.items() if declared.claim is not None}
            claims = tuple(each for each in state.claims if stays and each.role in claimable)
            changes["claims"] = claims or UNSET
        if state.votes is not UNSET:
            old, new = source.transitions, target.transitions
            same = {name for name in old if name in new and old[name].approvals == new[name].approvals}
            votes = tuple(each for each in state.votes if stays and each.transition in same)
            changes["votes"] = votes or UNSET
            if not stays:
                changes["runs"] = recorded_runs(self.new.flow, state)
        return changes


def _unknown(step: str, definition: FlowDefinition) -> str:
    listed = ", ".join(definition.flow.steps)
    return f"Version {definition.version} has no step {step!r}; it has {listed}"
