"""The fields of payloads that a caller sees, by ``sensitive`` and ``visible`` of the flow.

The one projection of states, records and events (docs/reference/definitions.md).
"""

from collections.abc import Sequence

from msgspec import UNSET, structs

from app.contracts.callers import READ, Caller, Purpose
from app.contracts.flow import Flow
from app.contracts.record import HistoryRecord, MergedField
from app.contracts.state import FlowState
from app.flow.people.callers import caller_on, is_participant
from app.flow.values.masking import Mask

OWNER = "owner"
"""The owner of a state and those who act for it, among the roles that see a sensitive field."""

SPECIAL_ROLES = frozenset({OWNER, READ})
"""Names that no role of a token and no role on a state stands for."""

EVERYTHING = Mask(shown=())
"""Masks the whole payload."""


def mask_for(
    flow: Flow, state: FlowState, caller: Caller, purpose: Purpose, listed: Sequence[str] = ()
) -> Mask | None:
    """Return the mask of a state's payload for a caller, None if it sees all of it.

    Args:
        flow: The flow, in the version that the state or the record has.
        state: The state, with the participants that count.
        caller: The authenticated caller, not the effective one.
        purpose: Administrators see all of a single state, and less of lists and events.
        listed: The ``fields`` of the integration whose credential this is.
    """
    acts = caller.acts_for(state.user_id) or (caller.user_id == state.user_id and not caller.service)
    is_support = caller.reads_all and not acts
    if flow.sensitive is None and flow.visible is None and not is_support:
        return None
    if caller.trusted or (purpose == "read" and caller.is_administrator):
        return None
    roles = set(caller_on(flow, state, caller).roles - SPECIAL_ROLES)
    if is_support:
        roles |= caller.roles - SPECIAL_ROLES | {READ}
    if acts and purpose != "watch":
        roles.add(OWNER)
    shown = None
    if is_support or not (acts or caller.service):
        shown = _shown(flow, roles, participates=is_participant(state, caller))
    hidden = _hidden(flow, roles)
    if shown is None and not hidden:
        return None
    return Mask(hidden, shown, tuple(listed) if caller.service else ())


def may_search(flow: Flow, caller: Caller, pointer: str) -> bool:
    """Return whether a caller may search the states of all users by a field.

    The credential of an integration, a service, an administrator, or support staff (``flow:read``).
    """
    if caller.trusted:
        return True
    roles, shown = set(caller.roles - SPECIAL_ROLES), None
    if not caller.service and not caller.acts_for_all:
        roles.add(READ)
        shown = _shown(flow, roles, participates=False)
    elif not caller.service:
        roles.add(OWNER)
    return Mask(_hidden(flow, roles), shown).shows_all_of(pointer)


def masks_fields(flow: Flow) -> bool:
    """Return whether callers who may see a state may see different fields of it."""
    return flow.sensitive is not None or flow.visible is not None


def _hidden(flow: Flow, roles: set[str]) -> tuple[str, ...]:
    """Return the pointers to sensitive fields that callers with these roles do not see."""
    return tuple(pointer for pointer, named in (flow.sensitive or {}).items() if roles.isdisjoint(named))


def _shown(flow: Flow, roles: set[str], *, participates: bool) -> tuple[str, ...] | None:
    """Return the pointers that callers with these roles see, None if all."""
    if flow.visible is None:
        return None if participates else ()
    return tuple(dict.fromkeys(each for role in flow.visible if role in roles for each in flow.visible[role]))


def masked_state(state: FlowState, mask: Mask | None) -> FlowState:
    """Return a state without what a mask hides."""
    if mask is None or state.payload is UNSET:
        return state
    payload, masked = mask.apply(state.payload)
    return structs.replace(state, payload=payload, masked=masked) if masked else state


def masked_record(record: HistoryRecord, mask: Mask | None) -> HistoryRecord:
    """Return a record, and the state after it, without what a mask hides."""
    if mask is None:
        return record
    masked: dict[str, None] = {}
    changed: dict[str, object] = {}
    if record.payload is not UNSET:
        changed["payload"], found = mask.apply(record.payload)
        masked |= dict.fromkeys(found)
    if record.merged is not UNSET:
        fields = [_masked_field(field, mask, masked) for field in record.merged]
        changed["merged"] = tuple(field for field in fields if field is not None)
    if record.after is not UNSET:
        changed["after"] = masked_state(record.after, mask)
    if masked:
        changed["masked"] = tuple(masked)
    return structs.replace(record, **changed)


def _masked_field(field: MergedField, mask: Mask, masked: dict[str, None]) -> MergedField | None:
    """Return a merged field without what a mask hides, None if it hides the field."""
    values = {name: value for name in ("theirs", "ours") if (value := getattr(field, name)) is not UNSET}
    shown = {}
    for name, value in values.items():
        seen, found = mask.apply_at(field.pointer, value)
        masked |= dict.fromkeys(found)
        if seen is not UNSET:
            shown[name] = seen
    return MergedField(field.pointer, **shown) if shown else None
