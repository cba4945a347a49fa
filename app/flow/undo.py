"""Undo of the last transition: the roles that it requires, and the transitions that it may take back."""

from msgspec import UNSET, UnsetType

from app.contracts.callers import Caller
from app.contracts.definition import FlowDefinition
from app.contracts.flow import FlowTransition
from app.contracts.state import FlowState
from app.flow.people.approvals import required_roles
from app.flow.permissions import restricts_roles


def undo_roles(definition: FlowDefinition, state: FlowState) -> tuple[str, ...] | UnsetType:
    """Return the roles of which a caller needs one to undo the last transition.

    The state stores the roles of the transition that ran. If it does not (a version before 0.5 ran it, or an
    administrator set ``previous``), they follow from the definition: the roles of the transitions between the
    two steps.

    Returns:
        UNSET if no role is required; empty if only an administrator may undo it.
    """
    if state.undo_roles is not UNSET or state.previous is UNSET:
        return state.undo_roles
    left = definition.flow.steps.get(state.previous)
    candidates = (
        [] if left is None else [each for each in left.transitions.values() if each.step == state.step]
    )
    if not candidates:
        return () if restricts_roles(definition.flow) else UNSET
    needed = [required_roles(transition) for transition in candidates]
    if any(roles is None for roles in needed):
        return UNSET
    return tuple(sorted({role for roles in needed for role in roles or ()}))


def undone_candidates(definition: FlowDefinition, state: FlowState) -> list[FlowTransition]:
    """Return the transitions that may have led from ``previous`` to the step, by the roles that it stores."""
    left = definition.flow.steps.get(state.previous) if state.previous is not UNSET else None
    if left is None:
        return []
    roles = None if state.undo_roles is UNSET else list(state.undo_roles)
    return [
        transition
        for transition in left.transitions.values()
        if transition.step == state.step and transition.reversible and required_roles(transition) == roles
    ]


def roles_to_undo(chosen: FlowTransition, caller: Caller | None) -> tuple[str, ...] | UnsetType:
    """Return the roles that undoing a transition requires: those that running it required.

    Only an administrator may undo what a timeout ran (``caller`` is None).
    """
    if caller is None:
        return ()
    roles = required_roles(chosen)
    return UNSET if roles is None else tuple(roles)
