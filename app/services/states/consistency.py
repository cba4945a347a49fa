"""Comparison of a stored state with the last record of its history."""

from msgspec import UNSET, Struct, structs

from app.contracts.ports.states import StoredState
from app.contracts.record import HistoryRecord, UnreadableRecord, named_payload
from app.contracts.state import FlowState
from app.flow.history_chain import is_intact

MAX_CREDIBLE_LEAD = 1000
"""How many revisions a document may be ahead of its history and still be believed."""


class Inconsistency(Struct, frozen=True):
    """The fault of a state. ``of_history``: its record is damaged, and the state itself is sound."""

    reason: str
    of_history: bool = False


def compare_with_last_record(
    found: StoredState, last: HistoryRecord | UnreadableRecord | None, *, pruned: bool
) -> Inconsistency | None:
    """Find what does not agree in a state and its last record.

    Args:
        found: The state.
        last: Its newest record, with the payload that it names if that exists.
        pruned: Old records may have been removed.

    Returns:
        None if both agree, or if the record may have been removed.
    """
    state = found.state
    revision = state.revision
    if last is not None and (last.epoch, last.revision) > (state.epoch, revision):
        return Inconsistency(f"its history goes further, to {last.epoch}.{last.revision}")
    if pruned and (last is None or (last.epoch, last.revision) < (state.epoch, revision)):
        return None
    if last is None:
        return Inconsistency("its history is missing", of_history=True)
    if last.epoch != state.epoch or revision - last.revision > MAX_CREDIBLE_LEAD:
        return Inconsistency(f"its history ends at {last.epoch}.{last.revision}")
    if last.revision != revision:
        return Inconsistency(f"the record of its revision {revision} is missing", of_history=True)
    if isinstance(last, UnreadableRecord):
        return Inconsistency(f"the record of its revision {revision} cannot be read", of_history=True)
    return _compare_contents(found, state, last, pruned=pruned)


def _compare_contents(
    found: StoredState, state: FlowState, last: HistoryRecord, *, pruned: bool
) -> Inconsistency | None:
    recorded = last.after
    if recorded is not UNSET and named_payload(last) is not None:
        if not pruned:
            place = f"the payload of its revision {state.revision}, in the record of revision"
            return Inconsistency(
                f"{place} {last.payload_revision}, is missing or was changed", of_history=True
            )
        recorded = structs.replace(recorded, payload=state.payload)
    same = recorded == state
    if not is_intact(last):
        reason = f"the record of its revision {state.revision} was changed"
        return Inconsistency(reason, of_history=not same)
    if not same:
        return Inconsistency(f"it is not as its revision {state.revision} left it")
    if found.head != (last.hash or ""):
        return Inconsistency("its link to the history was changed")
    return None
