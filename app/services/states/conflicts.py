"""Conflicts of a transition with changes that its caller did not know: the rule of the transition decides."""

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, structs

from app.contracts.commands import TransitionCommand
from app.contracts.errors import FlowError, FlowStateCorruptionError, RevisionConflictError
from app.contracts.flow import FlowConflict, FlowMerge
from app.contracts.ports.history import HistoryStore
from app.contracts.positions import ExpectedPosition
from app.contracts.record import MergedField, named_payload, payload_record_id, state_after
from app.contracts.state import FlowState, Payload
from app.flow.conflicts import find_conflicts, is_same
from app.flow.history_chain import is_intact
from app.flow.values.masking import Mask
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.field_masks import FieldMasks
from app.services.delivery.payloads import Payloads
from app.services.states.attempt import Attempt, Conflict, Refuse

Resolution = tuple[Refuse | None, tuple[MergedField, ...]]
"""The refusal, or the fields in which the transition replaces another change; no field: it is as usual."""

MAX_SHOWN = 5
"""Fields that a message names."""
_HIDDEN: Any = object()
"""Stands for a value that a caller sends and does not see."""


class ConflictResolution:
    """Decides whether a transition may go on though the state has changed."""

    def __init__(self, catalog: DefinitionCatalog, masks: FieldMasks, history: HistoryStore) -> None:
        self._catalog = catalog
        self._masks = masks
        self._history = history
        self._payloads = Payloads(history)

    async def resolve(self, attempt: Attempt, conflict: Conflict) -> Resolution:
        """Apply the ``conflict`` of the transition."""
        try:
            rule = await self._rule(attempt, conflict)
            if isinstance(rule, FlowMerge):
                return None, await self._merge(attempt, conflict, rule)
        except FlowError as error:
            return attempt.refusal(error), ()
        if conflict.error is not None:
            return attempt.refusal(conflict.error), ()
        return (attempt.refusal(_lost_race(attempt, conflict)) if rule == "reject" else None), ()

    async def _rule(self, attempt: Attempt, conflict: Conflict) -> FlowConflict:
        """Return the rule of the transition at the present step.

        A transition that lost a race is also refused if the one of the step at which it was decided first
        says so.
        """
        name, first = attempt.command.name, attempt.first
        if conflict.error is None and first is not None:
            rule = await self._declared_rule(first, name)
            if rule == "reject":
                return rule
        return await self._declared_rule(conflict.present, name)

    async def _declared_rule(self, state: FlowState, name: str) -> FlowConflict:
        definition = await self._catalog.pinned(state)
        step = definition.flow.steps.get(state.step)
        transition = None if step is None else step.transitions.get(name)
        return "retry" if transition is None else transition.conflict or "retry"

    async def _merge(self, attempt: Attempt, conflict: Conflict, rule: FlowMerge) -> tuple[MergedField, ...]:
        base = await self._payload_of_caller(attempt, conflict)
        if base is None:
            raise conflict.error or _lost_race(attempt, conflict)
        state, command = conflict.present, conflict.command
        definition = await self._catalog.pinned(state)
        mask = self._masks.mask(definition.flow, state, attempt.command.origin.caller, "read")
        present = _payload(state)
        found = find_conflicts(base, present, _as_applied(command, present, mask), rule.merge)
        refused = found.refused
        if mask is not None:
            marked = _as_applied(_with_marks(command, mask), present, mask)
            refused = _as_shown(find_conflicts(base, present, marked, rule.merge).refused, mask)
        if refused:
            shown = ", ".join(refused[:MAX_SHOWN])
            more = ", …" if len(refused) > MAX_SHOWN else ""
            message = f"Another change set the same fields of the payload: {shown}{more}"
            raise RevisionConflictError(f"{message}; read the state and decide again", state, refused)
        return found.merged

    async def _payload_of_caller(self, attempt: Attempt, conflict: Conflict) -> Payload | None:
        """Return the payload that the caller knew; None if it cannot be known."""
        present, first = conflict.present, attempt.first
        if first is not None and first.epoch != present.epoch:
            first = None
        if conflict.error is None:
            return None if first is None else _payload(first)
        revision = _named_revision(present, attempt.command.origin.expected)
        if revision is None:
            return None
        if not conflict.command.payload and not conflict.command.remove:
            return _payload(present)  # nothing is sent that could replace another change
        if first is not None and first.revision == revision:
            return _payload(first)
        place = None if attempt.stored is None else attempt.stored.payload_at
        if place is not None and place.revision <= revision:
            return _payload(present)  # it has not changed since then
        return await self._payload_at(attempt, present, revision)

    async def _payload_at(self, attempt: Attempt, present: FlowState, revision: int) -> Payload | None:
        """Return the payload at a revision; None if its record is missing, was erased or was changed."""
        record_id = payload_record_id(present, revision)
        pending = () if attempt.stored is None else attempt.stored.pending
        record = next((waiting for waiting in pending if waiting.id == record_id), None)
        try:
            record = record or await self._history.get(record_id)
            if record is None or record.is_erased or not is_intact(record):
                return None
            record = (await self._payloads.complete([record], pending))[0]
        except FlowStateCorruptionError:
            return None
        return None if named_payload(record) is not None else _payload(state_after(record))


def _as_applied(command: TransitionCommand, present: Payload, mask: Mask | None) -> TransitionCommand:
    """Return the command, which leaves what its caller does not see as it is."""
    if mask is None or command.payload is UNSET:
        return command
    return structs.replace(command, payload=mask.restore(command.payload, present))


def _with_marks(command: TransitionCommand, mask: Mask) -> TransitionCommand:
    """Return the command with marks, which equal nothing, for values that its caller does not see.

    To send the value that is there is no conflict otherwise: the caller could find hidden values by trying.
    """
    if command.payload is UNSET:
        return command
    return structs.replace(command, payload=_marked(command.payload, mask.apply(command.payload)[0]))


def _marked(sent: Any, seen: Any) -> Any:
    if isinstance(sent, dict) and isinstance(seen, dict):
        return {name: _marked(value, seen.get(name, UNSET)) for name, value in sent.items()}
    if isinstance(sent, list) and isinstance(seen, list):  # as long, with null for what is hidden
        return [_marked(value, part) for value, part in zip(sent, seen, strict=True)]
    return sent if is_same(sent, seen) else _HIDDEN


def _as_shown(pointers: Sequence[str], mask: Mask) -> tuple[str, ...]:
    """Return pointers without hidden names: of a hidden one the first name, which its caller has sent."""
    return tuple(dict.fromkeys(each if _is_shown(each, mask) else _first_name(each) for each in pointers))


def _is_shown(pointer: str, mask: Mask) -> bool:
    return mask.apply_at(pointer, {})[0] is not UNSET


def _first_name(pointer: str) -> str:
    return "/" + pointer.split("/")[1]


def _payload(state: FlowState) -> Payload:
    return {} if state.payload is UNSET else state.payload


def _named_revision(
    present: FlowState, expected: ExpectedPosition | tuple[ExpectedPosition, ...] | None
) -> int | None:
    """Return the latest revision before the present one that the caller expects in this epoch."""
    listed = (expected,) if isinstance(expected, ExpectedPosition) else expected or ()
    named = [one.revision for one in listed if one.epoch in (None, present.epoch)]
    return max((each for each in named if each is not None and 0 <= each < present.revision), default=None)


def _lost_race(attempt: Attempt, conflict: Conflict) -> RevisionConflictError:
    first, present = attempt.first, conflict.present
    if first is None or first.epoch != present.epoch:
        message = "The state was started anew while the transition was decided"
    else:
        moved = f"from revision {first.revision} to {present.revision}"
        message = f"The state changed while the transition was decided, {moved}"
    return RevisionConflictError(f"{message}; read it and decide again", present)
