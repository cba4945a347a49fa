"""The shortest way from a step to another one, over the transitions of a flow."""

import heapq
from collections.abc import Mapping
from itertools import count
from typing import Any

from msgspec import UNSET, UnsetType

from app.contracts.callers import Caller
from app.contracts.flow import Flow, FlowStep, FlowTransition
from app.contracts.wire.explanations import HopView
from app.flow.conditions.guards import constant_value
from app.flow.people.approvals import required_roles

_HOP = 10_000
_OTHER_PERSON = 1
"""Costs: fewer hops go first, and of as many those that the caller may run itself."""
_IMPOSSIBLE = 100_000_000
"""Cost of a first hop that is not possible now: only taken if no other leads there."""


def shortest_way(
    flow: Flow, start: str, target: str, caller: Caller, first: Mapping[str, bool | None]
) -> list[HopView] | None:
    """Return the transitions from a step to another one, by Dijkstra's algorithm; None if none lead there.

    Transitions whose guard is false for all values are no way.

    Args:
        flow: The flow.
        start: The name of the current step.
        target: The name of the wanted step.
        caller: The effective caller: of ways with as many transitions, the one goes first that needs the
            fewest other people.
        first: Whether each transition of the current step is possible now.
    """
    order = count()
    waiting: list[tuple[int, int, str, tuple[HopView, ...]]] = [(0, next(order), start, ())]
    done: set[str] = set()
    while waiting:
        cost, _, name, hops = heapq.heappop(waiting)
        if name == target:
            return list(hops)
        if name in done:
            continue
        done.add(name)
        step = flow.steps[name]
        for transition in step.transitions.values():
            if transition.step in done or _never(transition):
                continue
            possible = first.get(transition.transition) if not hops else UNSET
            added = _HOP + (_IMPOSSIBLE if possible is False else 0)
            if not _may_run(step, transition, caller):
                added += _OTHER_PERSON
            hop = _hop(step, transition, possible)
            heapq.heappush(waiting, (cost + added, next(order), transition.step, (*hops, hop)))
    return None


def _never(transition: FlowTransition) -> bool:
    return transition.guard is not None and constant_value(transition.guard) is False


def _may_run(step: FlowStep, transition: FlowTransition, caller: Caller) -> bool:
    return _is_timed(step, transition) or caller.has_a_role(required_roles(transition))


def _is_timed(step: FlowStep, transition: FlowTransition) -> bool:
    return step.timeout is not None and step.timeout.transition == transition.transition


def _hop(step: FlowStep, transition: FlowTransition, possible: bool | UnsetType | None) -> HopView:
    roles, schema = required_roles(transition), transition.payload_schema
    return HopView(
        transition=transition.transition,
        from_step=step.step,
        step=transition.step,
        possible=possible,
        timer=True if _is_timed(step, transition) else UNSET,
        roles=UNSET if roles is None else list(roles),
        votes=UNSET if transition.approvals is None else transition.approvals.count,
        guard=UNSET if transition.guard is None else transition.guard,
        inputs=UNSET if schema is None else _inputs(schema),
        payload_schema=UNSET if schema is None else schema,
    )


def _inputs(schema: Mapping[str, Any]) -> list[str]:
    """Return the required members at the top of a payload."""
    required = schema.get("required")
    return [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
