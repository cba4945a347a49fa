"""The timers of a state, the timeout of its step and its expiry: as changes of the state's members."""

from datetime import datetime, timedelta
from typing import Any

from msgspec import UNSET, UnsetType

from app.contracts.flow import FlowStep
from app.contracts.state import FlowState, Status


def entry_changes(step: FlowStep, now: datetime) -> dict[str, Any]:
    """Return the changes of a state that enters a step: its status, and when the timeout is due."""
    return {
        "step": step.step,
        "status": status_at(step),
        "timeout_at": UNSET if step.timeout is None else now + step.timeout.after,
        "timeout_left_ms": UNSET,
    }


def placement_changes(step: FlowStep, state: FlowState, now: datetime) -> dict[str, Any]:
    """Return the changes of a state that is put at a step; a paused state stays paused."""
    entered = entry_changes(step, now)
    if state.status == "paused":
        entered = {**entered, **pause_timeout(step, entered["timeout_at"], now), "status": "paused"}
    return entered


def pause_timeout(step: FlowStep, timeout_at: datetime | UnsetType, now: datetime) -> dict[str, Any]:
    """Return the changes that stop the timeout of a step during a pause."""
    if step.timeout is None or timeout_at is UNSET:
        return {}
    if step.timeout.resume == "absolute":
        return {"timeout_at": timeout_at}
    left = step.timeout.after if step.timeout.resume == "restart" else max(timeout_at - now, timedelta(0))
    return {"timeout_at": UNSET, "timeout_left_ms": milliseconds(left)}


def resume_timeout(state: FlowState, now: datetime) -> dict[str, Any]:
    """Return the changes that continue a stopped timeout."""
    if state.timeout_left_ms is UNSET:
        return {}
    return {"timeout_at": now + timedelta(milliseconds=state.timeout_left_ms), "timeout_left_ms": UNSET}


def pause_expiry(state: FlowState, since: datetime) -> dict[str, Any]:
    """Return the changes that stop the expiry during a pause, with the time that was left ``since``."""
    if state.expires_at is UNSET:
        return {}
    left = max(state.expires_at - since, timedelta(0))
    return {"expires_at": UNSET, "expiry_left_ms": milliseconds(left)}


def resume_expiry(state: FlowState, now: datetime) -> dict[str, Any]:
    """Return the changes that continue a stopped expiry."""
    stopped = pause_expiry(state, state.updated_at)  # paused by a version before 0.5, else nothing
    left = stopped.get("expiry_left_ms", state.expiry_left_ms)
    if left is UNSET:
        return {}
    return {"expires_at": now + timedelta(milliseconds=left), "expiry_left_ms": UNSET}


def status_at(step: FlowStep) -> Status:
    """Return the status of a state at a step: a step without transitions completes it."""
    return "active" if step.transitions else "completed"


def milliseconds(duration: timedelta) -> int:
    """Return a duration in whole milliseconds, as a state stores it."""
    return round(duration / timedelta(milliseconds=1))
