"""Rehearsal of a migration: its outcome for running states, from their steps."""

from collections.abc import Container, Sequence
from datetime import UTC, datetime
from typing import Literal

from msgspec import UNSET, Struct

from app.contracts.errors import Fault
from app.contracts.migration import SAMPLE_SIZE, Proposal, Sample, StepMigration
from app.contracts.ports.states import RunningStates
from app.contracts.state import FlowState
from app.flow.position import definition_mismatch
from app.flow.values.struct_errors import escape
from app.flow.versions.mapping import StepMapping
from app.flow.versions.proposals import propose

Outcome = Literal["fit", "needMapping", "stuck", "left"]


class Rehearsal(Struct, frozen=True):
    """The predicted outcome of a migration.

    Args:
        steps: The outcome by step: those of the old version in its order, then unknown steps of states.
        proposals: Proposals for steps without a target.
        unmapped: Faults of the mapping: steps without a target at which states run.
    """

    steps: list[StepMigration]
    proposals: list[Proposal]
    unmapped: list[Fault]


def rehearse(mapping: StepMapping, found: Sequence[RunningStates]) -> Rehearsal:
    """Predict the outcome of a migration for the running states of the old version.

    The outcome for a state depends on its position alone, so that the prediction for ``found`` is exact.
    """
    old, new = mapping.old.flow, mapping.new.flow
    known: dict[str, str] = {}
    removed: list[str] = []
    for step in old.steps:
        to = mapping.target(step)
        if to is not None:
            known[step] = to
        elif not mapping.leaves(step):
            removed.append(step)
    proposed = {proposal.step: proposal for proposal in propose(old, new, known, removed)}
    places = dict.fromkeys([*old.steps, *(group.step for group in found)])
    advice = {step: _advice(mapping, step, proposed.get(step)) for step in places}
    damages: dict[str, str] = {}
    counted: dict[tuple[str, Outcome], Sample] = {}
    unmapped: dict[str, Fault] = {}
    for group in found:
        step = group.step
        outcome, damage = _outcome(mapping, group, proposed)
        counted[step, outcome] = _extended(counted.get((step, outcome), Sample()), group)
        if damage is not None:
            damages[step] = f"States there are damaged ({damage}): recover them first"
        elif outcome in ("needMapping", "stuck"):
            unmapped[step] = Fault(f"/mapping/{escape(step)}", f"States run there. {advice[step]}")
    steps = [
        StepMigration(
            step=step,
            fit=counted.get((step, "fit"), Sample()),
            need_mapping=counted.get((step, "needMapping"), Sample()),
            stuck=counted.get((step, "stuck"), Sample()),
            left=counted.get((step, "left"), Sample()),
            to=mapping.target(step) if step in old.steps else None,
            advice="; ".join(filter(None, (advice[step], damages.get(step)))),
        )
        for step in places
    ]
    return Rehearsal(steps, list(proposed.values()), list(unmapped.values()))


def _outcome(
    mapping: StepMapping, group: RunningStates, proposed: Container[str]
) -> tuple[Outcome, str | None]:
    """Return the outcome for states in the same position, and the fault of such states."""
    if mapping.leaves(group.step):
        return "left", None
    damage = definition_mismatch(mapping.old, _example_of(mapping, group))
    if damage is not None:
        return "stuck", damage
    if mapping.target(group.step) is not None:
        return "fit", None
    return "needMapping" if group.step in proposed else "stuck", None


def _advice(mapping: StepMapping, step: str, proposal: Proposal | None) -> str:
    old, new = mapping.old.flow.steps, mapping.new.flow.steps
    to = mapping.target(step)
    if step not in old or mapping.leaves(step):
        return ""
    if to is not None:
        ends = old[step].transitions and not new[to].transitions
        return f"States there are completed, as {to!r} ends the flow" if ends else ""
    maybe = "" if proposal is None else f" (maybe {proposal.to!r}: {proposal.reason})"
    return (
        f"The step is not in version {mapping.new.version}: map it to a step of that version{maybe}, "
        "or to null to leave its states where they are"
    )


def _example_of(mapping: StepMapping, group: RunningStates) -> FlowState:
    """Return a state in the position of those of a group."""
    never = datetime(1970, 1, 1, tzinfo=UTC)
    return FlowState(
        flow=mapping.old.flow.flow,
        user_id="",
        version=mapping.old.version,
        epoch="",
        revision=0,
        status=group.status,
        step=group.step,
        service="",
        ok=True,
        created_at=never,
        updated_at=never,
        previous=group.previous,
    )


def _extended(sample: Sample, group: RunningStates) -> Sample:
    entities = sample.entity_ids or [""] * len(sample.user_ids)
    known = list(zip(sample.user_ids, entities, strict=True))
    added = [(state_id.user_id, state_id.instance_id or "") for state_id in group.state_ids]
    first = sorted([*known, *added])[:SAMPLE_SIZE]
    has_many = any(entity for _, entity in first)
    return Sample(
        sample.count + group.count,
        [user for user, _ in first],
        [entity for _, entity in first] if has_many else UNSET,
    )
