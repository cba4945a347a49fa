"""Separation of duties: transitions that another person must run than earlier ones."""

from collections.abc import Iterable

from msgspec import UNSET, UnsetType

from app.contracts.callers import Caller
from app.contracts.flow import Flow, FlowTransition
from app.contracts.people import TransitionBy
from app.contracts.state import FlowState

MAX_KNOWN_FLOWS = 128
"""Versions of flows whose named transitions are remembered, so that a transition does not search its flow."""

_known: dict[int, tuple[Flow, frozenset[str]]] = {}


def excluding(flow: Flow) -> frozenset[str]:
    """Return the transitions that a ``not_by`` of the flow names: a state records who ran them."""
    known = _known.get(id(flow))
    if known is not None:
        return known[1]
    names = frozenset(
        name
        for step in flow.steps.values()
        for transition in step.transitions.values()
        for name in transition.not_by or ()
    )
    if len(_known) >= MAX_KNOWN_FLOWS:
        _known.clear()
    _known[id(flow)] = flow, names  # with the flow, so that no other one gets its id
    return names


def excluding_run(transition: FlowTransition, state: FlowState, caller: Caller) -> str | None:
    """Return a transition of ``not_by`` that the caller ran or voted for; None if there is none."""
    if not transition.not_by:
        return None
    for done in (state.runs, state.votes):
        for each in () if done is UNSET else done:
            if each.user_id == caller.user_id and each.transition in transition.not_by:
                return each.transition
    return None


def recorded_runs(
    flow: Flow, state: FlowState, run: TransitionBy | None = None
) -> tuple[TransitionBy, ...] | UnsetType:
    """Return the runs that a state records when it leaves a step: votes count as runs from then on.

    Args:
        flow: The flow.
        state: The state before.
        run: The transition that leaves the step, and who runs it; None if nobody does.
    """
    if run is None and state.votes is UNSET:
        return state.runs
    names = excluding(flow)
    if not names:
        return state.runs
    present = () if state.runs is UNSET else state.runs
    done: Iterable[TransitionBy] = () if state.votes is UNSET else state.votes
    added = [each for each in (*done, *(() if run is None else (run,))) if each.transition in names]
    return tuple(dict.fromkeys((*present, *added))) or UNSET
