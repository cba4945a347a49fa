"""The difference of two versions of a flow, and its effect on states that run on the earlier one."""

from typing import Any

from msgspec import UNSET, Struct, json, to_builtins

from app.contracts.definition import FlowDefinition
from app.contracts.flow import Flow, FlowConfig, FlowStep, FlowTimeout, FlowTransition
from app.contracts.migration import (
    Effect,
    FlowDiff,
    MemberChange,
    Reason,
    StepChange,
    StepsDiff,
    TransitionChange,
    TransitionPlace,
    TransitionsDiff,
)
from app.flow.values.references import resolve_references
from app.flow.values.struct_errors import escape
from app.flow.versions.fields import field_reasons
from app.flow.versions.people import (
    describe_approvals,
    describe_instances,
    describe_not_by,
    participant_reasons,
)

_WORST_FIRST: tuple[Effect, ...] = ("breaking", "compatible", "safe")
_TEXTS = {
    "title": "The text is for people only",
    "description": "The text is for people only",
    "meta": "The data is for clients only",
}
_STARTS = "Only states that start are affected"
_SAFE_FLOW_MEMBERS = {
    **_TEXTS,
    "initialStep": "Only states that start or are reset are affected",
    "prefabs": _STARTS,
}
_SAFE_STEP_MEMBERS = {**_TEXTS, "initial": _STARTS}
_COMPATIBLE_FLOW_MEMBERS = {
    "ttl": "The new time counts from the next change of a state",
    "roles": "Other users see the flow",
    "resettable": "Other users may reset states",
    "clearable": "Other users may clear states",
}
_TRANSITION_MEMBERS = {
    "explicit": "`next` runs the first transition that is not explicit",
    "reversible": "It decides whether the transition can be undone",
    "guard": "The transition runs under another condition",
    "payloadSchema": "The transition accepts another payload",
    "roles": "Other users may run the transition",
    "conflict": "Changes that meet are resolved in another way",
    "assign": "The transition gives roles to other people; those that a state has stay until then",
}
_REFERENCES = ("service", "module", "path")
"""Members of a step that may refer to the config."""


def diff(earlier: FlowDefinition, later: FlowDefinition) -> FlowDiff:
    """Compare two versions. The order of steps has no meaning and is not compared."""
    found = _Differences(earlier.flow, later.flow)
    found.compare()
    reasons = sorted(found.reasons, key=lambda reason: _WORST_FIRST.index(reason.effect))
    return FlowDiff(
        flow=later.flow.flow,
        from_version=earlier.version,
        to_version=later.version,
        verdict=reasons[0].effect if reasons else "safe",
        reasons=reasons,
        members=found.members,
        steps=found.steps,
        transitions=found.transitions,
    )


class _Differences:
    """Collects the differences, with a reason for each."""

    def __init__(self, old: Flow, new: Flow) -> None:
        self._old = old
        self._new = new
        self._names = {step.index: step.step for step in new.steps.values()}
        self.reasons: list[Reason] = []
        self.members: list[MemberChange] = []
        self.steps = StepsDiff([], [], [])
        self.transitions = TransitionsDiff([], [], [])

    def compare(self) -> None:
        """Compare the flows, their steps and transitions."""
        old, new = self._old, self._new
        self._compare_flows()
        self.steps.added.extend(name for name in new.steps if name not in old.steps)
        for name in self.steps.added:
            self._add_reason(f"/steps/{escape(name)}", "safe", "The step is new: no running state is there")
        meant_before, meant_now = resolve_references(old).steps, resolve_references(new).steps
        for name, step in old.steps.items():
            if name not in new.steps:
                self._add_removed_step(step)
                continue
            changed = self._compare_steps(step, new.steps[name])
            changed += self._compare_references(step, new.steps[name], meant_before[name], meant_now[name])
            if changed:
                self.steps.changed.append(StepChange(name, changed))
            self._compare_transitions(step, new.steps[name])

    def _add_reason(self, pointer: str, effect: Effect, message: str) -> None:
        self.reasons.append(Reason(pointer, effect, message))

    def _compare_flows(self) -> None:
        self.members += _members_that_differ(self._old, self._new, without=("steps",))
        for change in self.members:
            member = change.member
            if member == "config":
                self._compare_configs(self._old.config, self._new.config)
            elif member in _SAFE_FLOW_MEMBERS:
                self._add_reason(f"/{member}", "safe", _SAFE_FLOW_MEMBERS[member])
            elif member == "instances":
                self._add_reason("/instances", "compatible", describe_instances(self._new))
            elif member == "participants":
                self.reasons += participant_reasons(
                    self._old.participants or {}, self._new.participants or {}
                )
            elif member in ("sensitive", "visible", "searchable"):
                self.reasons += field_reasons(self._old, self._new, member)
            else:
                self._add_reason(
                    f"/{member}", "compatible", _COMPATIBLE_FLOW_MEMBERS.get(member, "The value changed")
                )

    def _compare_configs(self, old: FlowConfig, new: FlowConfig) -> None:
        if old.query_param != new.query_param:
            message = "Outstanding links have their token in another parameter"
            self._add_reason("/config/queryParam", "compatible", message)
        else:
            self._add_reason(
                "/config", "safe", "Only the steps that refer to it are affected; they are listed themselves"
            )

    def _add_removed_step(self, step: FlowStep) -> None:
        self.steps.removed.append(step.step)
        who = "running states" if step.transitions else "paused states"
        message = f"The step was removed: {who} can be there, and need a mapping to another step"
        if step.index in self._names:
            message += f"; its index {step.index} now belongs to {self._names[step.index]!r}"
        self._add_reason(f"/steps/{escape(step.step)}", "breaking", message)

    def _compare_steps(self, old: FlowStep, new: FlowStep) -> list[MemberChange]:
        found = _members_that_differ(old, new, without=("transitions", *_REFERENCES))
        for change in found:
            at = f"/steps/{escape(new.step)}/{change.member}"
            if change.member in _SAFE_STEP_MEMBERS:
                self._add_reason(at, "safe", _SAFE_STEP_MEMBERS[change.member])
            elif change.member == "index":
                self._add_reason(at, "compatible", self._index_message(old, new))
            elif change.member == "timeout":
                self._add_reason(at, "compatible", _timeout_message(old.timeout, new.timeout))
            else:
                self._add_reason(at, "compatible", "Outstanding tokens are read differently")
        before = [name for name in old.transitions if name in new.transitions]
        after = [name for name in new.transitions if name in old.transitions]
        if before != after:
            at = f"/steps/{escape(new.step)}/transitions"
            self._add_reason(
                at, "compatible", "The order changed: `next` runs the first transition that is not explicit"
            )
            found.append(MemberChange("transitions", before, after))
        return found

    def _index_message(self, old: FlowStep, new: FlowStep) -> str:
        means = f"{self._names[old.index]!r}" if old.index in self._names else "no step"
        return (
            f"The index is {new.index} and was {old.index}: an outstanding token with {old.index} now means "
            f"{means}; never renumber a step while tokens are outstanding"
        )

    def _compare_references(
        self, old: FlowStep, new: FlowStep, before: FlowStep, now: FlowStep
    ) -> list[MemberChange]:
        """Compare service, module and path; ``before`` and ``now`` have their references resolved."""
        found = []
        for member in _REFERENCES:
            written = getattr(old, member), getattr(new, member)
            meant = getattr(before, member), getattr(now, member)
            at = f"/steps/{escape(new.step)}/{member}"
            if meant[0] != meant[1]:
                self._add_reason(at, "compatible", "Clients lead users to another place")
            elif written[0] != written[1]:
                self._add_reason(at, "safe", "The reference means the same value as before")
            else:
                continue
            shown = meant if written[0] == written[1] else written
            found.append(MemberChange(member, *(UNSET if value is None else value for value in shown)))
        return found

    def _compare_transitions(self, old: FlowStep, new: FlowStep) -> None:
        at = f"/steps/{escape(new.step)}/transitions"
        if bool(old.transitions) != bool(new.transitions):
            message = "The step now ends the flow: running states there are completed when they are moved"
            if new.transitions:
                message = "The step no longer ends the flow: completed states there stay on their version"
            self._add_reason(at, "compatible", message)
        for name, transition in new.transitions.items():
            here = f"{at}/{escape(name)}"
            if name in old.transitions:
                self._compare_transition(here, old.step, old.transitions[name], transition)
            else:
                self.transitions.added.append(TransitionPlace(new.step, name, transition.step))
                self._add_reason(
                    here, "compatible", f"The transition is new: it leads states there to {transition.step!r}"
                )
        for name, transition in old.transitions.items():
            if name not in new.transitions:
                self.transitions.removed.append(TransitionPlace(old.step, name, transition.step))
                self._add_reason(
                    f"{at}/{escape(name)}",
                    "compatible",
                    "The transition was removed: states there can no longer run it",
                )

    def _compare_transition(self, at: str, step: str, old: FlowTransition, new: FlowTransition) -> None:
        found = _members_that_differ(old, new)
        if found:
            self.transitions.changed.append(TransitionChange(step, new.transition, found))
        for change in found:
            here = f"{at}/{change.member}"
            if change.member in _TEXTS:
                self._add_reason(here, "safe", _TEXTS[change.member])
            elif change.member == "step":
                self._add_reason(
                    here, "compatible", f"The transition leads to {new.step!r} and led to {old.step!r}"
                )
            elif change.member == "notBy":
                self._add_reason(here, "compatible", describe_not_by(self._old, old, new))
            elif change.member == "approvals":
                self._add_reason(here, "compatible", describe_approvals(old.approvals, new.approvals))
            else:
                self._add_reason(
                    here, "compatible", _TRANSITION_MEMBERS.get(change.member, "The value changed")
                )


def _timeout_message(old: FlowTimeout | None, new: FlowTimeout | None) -> str:
    if new is None:
        return "The timeout was removed: states there no longer move on by themselves"
    if old is None or (old.after, old.resume) != (new.after, new.resume):
        return "A state that is moved waits the whole time from then on"
    return "The timeout runs another transition; the time that a state has waited counts"


def _members_that_differ(old: Struct, new: Struct, without: tuple[str, ...] = ()) -> list[MemberChange]:
    """Compare two structs by their JSON. The order of lists counts, that of members does not."""
    before, after = (_members_of(each, without) for each in (old, new))
    names = [*after, *(name for name in before if name not in after)]
    return [
        MemberChange(name, before.get(name, UNSET), after.get(name, UNSET))
        for name in names
        if _comparable_json(before.get(name)) != _comparable_json(after.get(name))
    ]


def _comparable_json(value: object) -> bytes:
    return json.encode(value, order="deterministic")


def _members_of(value: Struct, without: tuple[str, ...]) -> dict[str, Any]:
    plain: dict[str, Any] = to_builtins(value)
    return {name: member for name, member in plain.items() if name not in without}
