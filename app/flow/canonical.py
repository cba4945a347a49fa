"""A definition as its author wrote it, brought into the one form that the contract's types read."""

from typing import Any

import msgspec

from app.kit.durations import parse_duration


def canonical(raw: Any) -> Any:
    """Write each duration in the form that is stored, such as P7D for P1W; nothing is changed in place.

    What is wrong stays as it is, for the checks to name.
    """
    if not isinstance(raw, dict):
        return raw
    changed = _with_duration(raw, "ttl")
    steps = raw.get("steps")
    if isinstance(steps, dict):
        changed = {**changed, "steps": {name: _canonical_step(step) for name, step in steps.items()}}
    return changed


def _canonical_step(step: Any) -> Any:
    timeout = step.get("timeout") if isinstance(step, dict) else None
    return {**step, "timeout": _with_duration(timeout, "after")} if isinstance(timeout, dict) else step


def _with_duration(part: dict[str, Any], member: str) -> dict[str, Any]:
    given = part.get(member)
    if not isinstance(given, str):
        return part
    try:
        span = parse_duration(given)
    except ValueError:
        return part
    return {**part, member: msgspec.to_builtins(span)}
