"""Effects of changed rules about people on running states."""

from collections.abc import Iterator, Mapping
from itertools import islice

from app.contracts.flow import Flow, FlowApprovals, FlowParticipant, FlowTransition
from app.contracts.migration import Effect, Reason
from app.flow.values.struct_errors import escape

_MAX_NAMED = 10
_MEMBERS: tuple[tuple[str, str, Effect, str], ...] = (
    ("group", "group", "compatible", "The group of a running state stays until the state is reset"),
    ("assignable", "assignable", "compatible", "Other callers may name the people of running states"),
    ("claim", "claim", "compatible", "New claims last for another time; present claims end as before"),
    ("take_over", "takeOver", "compatible", "Other people may take over claims"),
    ("title", "title", "safe", "The text is for people only"),
    ("description", "description", "safe", "The text is for people only"),
)
"""Members of a role: in Python, in JSON, their effect, and its description."""
_ADDED = (
    "The role is had on single states only: nobody has it on a running state before somebody is named or the "
    "state is reset, and a role of this name in a token no longer counts"
)
_REMOVED = (
    "The role was removed: people who have it on a running state can no longer see the state or act on it by "
    "this role, and a role of this name in a token counts"
)


def describe_instances(new: Flow) -> str:
    """Return the effect of another number of states for each user."""
    if new.instances == "many":
        return (
            "A user may start many states, each for an entity: the present state of a user has no entity and "
            "stays reachable without `entityId`"
        )
    return (
        "A user may start one state only, without an entity: present states for entities run on and stay "
        "reachable with `entityId`"
    )


def participant_reasons(
    old: Mapping[str, FlowParticipant], new: Mapping[str, FlowParticipant]
) -> Iterator[Reason]:
    """Yield the effects of changed roles of participants."""
    if not old and not new:
        yield Reason("/participants", "safe", "No roles are declared, as before")
    for role, declared in new.items():
        at = f"/participants/{escape(role)}"
        if role not in old:
            yield Reason(at, "compatible", _ADDED)
            continue
        for attribute, member, effect, message in _MEMBERS:
            if getattr(old[role], attribute) != getattr(declared, attribute):
                yield Reason(f"{at}/{member}", effect, message)
    for role in old:
        if role not in new:
            yield Reason(f"/participants/{escape(role)}", "compatible", _REMOVED)


def describe_not_by(earlier: Flow, old: FlowTransition, new: FlowTransition) -> str:
    """Return the effect of other transitions whose people are excluded.

    A state records who ran a transition only if its version names it in a ``not_by``.
    """
    if not new.not_by:
        return "Nobody is excluded from the transition"
    recorded = {
        name
        for step in earlier.steps.values()
        for transition in step.transitions.values()
        for name in transition.not_by or ()
    }
    added = [name for name in dict.fromkeys(new.not_by) if name not in (old.not_by or ())]
    unknown = [repr(name) for name in islice((name for name in added if name not in recorded), _MAX_NAMED)]
    if not unknown:
        return "Other people are excluded from the transition"
    return (
        f"Other people are excluded from the transition, but nobody for {', '.join(unknown)} before a state "
        "is moved: the earlier version does not record who ran it"
    )


def describe_approvals(old: FlowApprovals | None, new: FlowApprovals | None) -> str:
    """Return the effect of another number of votes, or votes of another role."""
    if new is None:
        return "One person moves the state: votes of running states no longer count"
    if old is None:
        return f"Votes of {new.count} different people with the role {new.of!r} move the state"
    return "The votes of running states are dropped when they are moved, and are cast again"
