"""The position of a state in its definition: its step, and whether it fits there."""

from msgspec import UNSET

from app.contracts.definition import FlowDefinition
from app.contracts.errors import FlowStateCorruptionError, StatePausedError
from app.contracts.flow import FlowStep
from app.contracts.state import TERMINAL_STATUSES, FlowState
from app.flow.timers import status_at


def current_step(definition: FlowDefinition, state: FlowState) -> FlowStep:
    """Return the step that the state is at.

    Raises:
        FlowStateCorruptionError: The state does not fit its definition.
    """
    mismatch = definition_mismatch(definition, state)
    if mismatch is not None:
        raise FlowStateCorruptionError(state.user_id, state.flow, mismatch)
    return definition.flow.steps[state.step]


def definition_mismatch(definition: FlowDefinition, state: FlowState) -> str | None:
    """Describe the first mismatch of a state and its definition; None if they fit."""
    if state.status in TERMINAL_STATUSES:
        return None
    step = definition.flow.steps.get(state.step)
    if step is None:
        return f"step {state.step} is not in version {definition.version} of the flow"
    if state.status not in ("paused", status_at(step)):
        return f"it is {state.status} at step {state.step}"
    if state.previous is not UNSET and state.previous not in definition.flow.steps:
        return f"its previous step {state.previous} is not in version {definition.version} of the flow"
    return None


def require_active(state: FlowState) -> None:
    """Raise StatePausedError if an administrator paused the state."""
    if state.status == "paused":
        reason = state.pause_reason
        raise StatePausedError(state.flow, "" if reason is UNSET else reason)
