"""Participants of a state: people and groups with roles on it, and how they are named."""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import UNSET, UnsetType

from app.contracts.commands import StartCommand
from app.contracts.errors import Fault, InvalidPayloadError, InvalidRequestError
from app.contracts.flow import Flow, FlowAssignment, FlowStep
from app.contracts.identifiers import ID_RULE, is_id
from app.contracts.people import Participant
from app.contracts.state import FlowState, Payload
from app.flow.people.approvals import required_roles
from app.flow.values.struct_errors import escape

MAX_PARTICIPANTS = 100
"""Participants whom a command may name, and users who have roles on one state."""

Participants = tuple[Participant, ...]


def group_participants(flow: Flow) -> Participants:
    """Return the groups that have roles on every new state of the flow."""
    declared = (flow.participants or {}).items()
    return tuple(Participant(role, group=each.group) for role, each in declared if each.group is not None)


def first_participants(flow: Flow, command: StartCommand) -> Participants | UnsetType:
    """Return the participants of a new state: those of the command, and the groups of the flow.

    Raises:
        InvalidRequestError: The command has faults; it lists all.
    """
    if flow.participants is None and command.participants is UNSET:
        return UNSET
    named = () if command.participants is UNSET else checked(flow, command.participants)
    return _distinct((*named, *group_participants(flow))) or UNSET


def restarted_participants(flow: Flow, state: FlowState) -> Participants | UnsetType:
    """Return the participants after a reset: the users whose roles the flow declares, and its groups."""
    if flow.participants is None or state.participants is UNSET:
        return group_participants(flow) or UNSET
    users = [each for each in state.participants if each.group is UNSET and each.role in flow.participants]
    return _distinct((*users, *group_participants(flow))) or UNSET


def declared_participants(flow: Flow, state: FlowState) -> Participants | UnsetType:
    """Return the participants whose roles the flow declares, as another version may not have all roles."""
    if state.participants is UNSET:
        return UNSET
    declared = flow.participants or {}
    return tuple(each for each in state.participants if each.role in declared) or UNSET


def checked(flow: Flow, participants: Iterable[Participant]) -> Participants:
    """Return the participants that a command names, without repetitions.

    Raises:
        InvalidRequestError: A role is not declared, an entry has not exactly one of a user and a group, an id
            is no identifier, or there are too many; it lists every fault.
    """
    named = tuple(participants)
    faults = list(_faults(flow, named[:MAX_PARTICIPANTS]))
    if len(named) > MAX_PARTICIPANTS:
        message = f"must be at most {MAX_PARTICIPANTS} entries; give a role to a group instead"
        faults.insert(0, Fault("/participants", message))
    if faults:
        raise InvalidRequestError(faults)
    return _distinct(named)


def assigned(
    participants: Participants | UnsetType,
    assignments: Sequence[FlowAssignment],
    payload: Payload | UnsetType,
    *,
    lenient: bool = False,
) -> Participants | UnsetType:
    """Return the participants after a transition that assigns roles.

    The users of a role are replaced by those in the payload; groups stay.

    Args:
        participants: The participants before.
        assignments: The assignments of the transition.
        payload: The payload of the state after the transition.
        lenient: Assignments without a valid value are skipped, so that they cannot stop a timeout.

    Raises:
        InvalidPayloadError: A member of the payload has no user ids; it lists every fault.
    """
    result = () if participants is UNSET else participants
    faults = []
    for each in assignments:
        member = each.source.removeprefix("payload.")
        users = _users(UNSET if payload is UNSET else payload.get(member, UNSET))
        if users is None:
            message = f"must be the id of a user, or a list of ids, for the role {each.role}; an id {ID_RULE}"
            faults.append(Fault(f"/payload/{escape(member)}", message))
            continue
        others = [entry for entry in result if entry.role != each.role or entry.group is not UNSET]
        result = _distinct((*others, *(Participant(each.role, user_id=user) for user in users)))
    if sum(entry.group is UNSET for entry in result) > MAX_PARTICIPANTS:
        faults.append(Fault("/payload", f"must not give roles to more than {MAX_PARTICIPANTS} users"))
        result = () if participants is UNSET else participants
    if faults and not lenient:
        raise InvalidPayloadError(faults)
    return result or UNSET


def awaited_roles(
    flow: Flow, step: FlowStep, participants: Participants | UnsetType
) -> tuple[str, ...] | UnsetType:
    """Return the roles of participants that may run a transition of a step; UNSET if there are none."""
    if participants is UNSET or flow.participants is None:
        return UNSET
    held = {each.role for each in participants if each.role in flow.participants}
    wanted = {
        role for transition in step.transitions.values() for role in required_roles(transition) or ()
    } & held
    return tuple(sorted(wanted)) or UNSET


def _users(value: object) -> list[str] | None:
    """Return the ids in a member of a payload; None if it has no ids, or anything else."""
    listed = value if isinstance(value, list) else [value]
    users = [each for each in listed if isinstance(each, str) and is_id(each)]
    return users if len(users) == len(listed) else None


def _faults(flow: Flow, participants: Participants) -> Iterator[Fault]:
    declared = flow.participants or {}
    for number, each in enumerate(participants):
        at = f"/participants/{number}"
        if not isinstance(each.role, str) or each.role not in declared:
            listed = (
                f"one of {', '.join(declared)}" if declared else "absent: the flow declares no participants"
            )
            yield Fault(f"{at}/role", f"must be {listed}")
        if (each.user_id is UNSET) == (each.group is UNSET):
            yield Fault(at, "must have exactly one of userId and group")
            continue
        member, value = ("group", each.group) if each.user_id is UNSET else ("userId", each.user_id)
        if not is_id(value):
            yield Fault(f"{at}/{member}", ID_RULE)


def _distinct(participants: Iterable[Participant]) -> Participants:
    return tuple(dict.fromkeys(participants))
