"""The changes that concern an integration: pure rules over a record and the flow that its state runs on."""

from msgspec import UNSET

from app.contracts.flow import Flow
from app.contracts.integration import EventType, Integration
from app.contracts.record import HistoryRecord, Kind
from app.contracts.state import TERMINAL_STATUSES, FlowState
from app.flow.step_services import owner_of, serves

_TYPES: dict[Kind, EventType] = {
    "started": "flow.started",
    "transitioned": "flow.transition",
    "undone": "flow.undone",
    "reset": "flow.reset",
    "set": "flow.set",
    "paused": "flow.paused",
    "resumed": "flow.resumed",
    "cleared": "flow.cleared",
    "expired": "flow.expired",
    "recovered": "flow.recovered",
    "migrated": "flow.migrated",
    "erased": "flow.erased",
    "pseudonymised": "flow.participants",
    "assigned": "flow.participants",
    "claimed": "flow.participants",
    "released": "flow.participants",
    "voted": "flow.participants",
    "withdrawn": "flow.participants",
}
"""Types of events by kinds of changes. A refused attempt changes nothing, so it has none."""

_ENTERING: frozenset[Kind] = frozenset({"started", "transitioned", "undone", "reset", "set"})
"""Kinds of changes that put a state at a step, also at the one where it is."""


def concerns(integration: Integration, record: HistoryRecord, flow: Flow | None) -> EventType | None:
    """Return the type of the event that a change is for an integration, None if it does not concern it.

    Args:
        integration: The registration. It may be disabled: its events wait.
        record: The record of a change.
        flow: The version of the flow that the state runs on after the change; None if it cannot be read.
            Then only integrations that list the flow are concerned, and no step counts as their own.
    """
    types = _applicable_types(integration.alias, record, flow)
    if not types or not _receives_flow(integration, record, flow) or not _receives_steps(integration, record):
        return None
    if integration.events is None:
        return types[0]
    return next((each for each in types if each in integration.events), None)


def waits_at_own_step(alias: str, state: FlowState, flow: Flow | None) -> bool:
    """Return whether a state waits at a step of an integration: it is active, and the step is its own."""
    return state.status == "active" and _owns(alias, state.step, state.service, flow)


def leaves_own_step(alias: str, record: HistoryRecord, flow: Flow | None) -> bool:
    """Return whether a state that may have waited at a step of an integration does not wait any more."""
    if record.after is UNSET or waits_at_own_step(alias, record.after, flow):
        return False
    return any(_owns(alias, step, record.service, flow) for step in (record.from_step, record.to_step))


def enters_step(record: HistoryRecord) -> bool:
    """Return whether a change made the state enter the step after it.

    Changes that put a state at a step do so, even at the step where it was: its timeout starts anew. A
    migration does if the step has another name, a recovery if the state had to be restarted.
    """
    if record.after is UNSET or record.after.status in TERMINAL_STATUSES:
        return False
    if record.kind == "migrated":
        return record.from_step != record.to_step
    if record.kind == "recovered":
        return record.payload is not UNSET and record.payload.get("action") == "restarted"
    return record.kind in _ENTERING


def _applicable_types(alias: str, record: HistoryRecord, flow: Flow | None) -> list[EventType]:
    """Return the types that apply to a change, the one with precedence first; none of a refusal."""
    own = _TYPES.get(record.kind)
    if record.after is UNSET or own is None:
        return []
    after = record.after
    if record.kind == "pseudonymised" and after.status in TERMINAL_STATUSES:
        return []  # the state has ended before, and its receivers have that event
    types = [own]
    if enters_step(record) and _owns(alias, after.step, after.service, flow):
        types.insert(0, "flow.step.entered")
    if _completes(record):
        types.insert(0, "flow.completed")
    return types


def _completes(record: HistoryRecord) -> bool:
    """Return whether a change completed the state; a completed one that is recovered or claimed was before.

    A resumption completes a state that was put at a last step during its pause. Only running states are
    migrated.
    """
    if record.after is UNSET or record.after.status != "completed":
        return False
    return enters_step(record) or record.kind in ("migrated", "resumed")


def _receives_flow(integration: Integration, record: HistoryRecord, flow: Flow | None) -> bool:
    if integration.flows is not None:
        return record.flow_id in integration.flows
    if flow is None:
        return False
    return serves(flow, integration.alias, record.service)


def _receives_steps(integration: Integration, record: HistoryRecord) -> bool:
    if integration.steps is None:
        return True
    changed = {step for step in (record.from_step, record.to_step) if step}
    changed |= {f"{record.flow_id}/{step}" for step in changed}
    return not changed.isdisjoint(integration.steps)


def _owns(alias: str, step: str, target: str, flow: Flow | None) -> bool:
    found = None if flow is None else flow.steps.get(step)
    return flow is not None and found is not None and owner_of(flow, found, target) == alias
