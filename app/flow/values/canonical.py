"""The canonical form of a definition, in which it is checked and stored."""

from typing import Any

import msgspec

from app.kit.durations import parse_duration
from app.kit.numbers import with_doubles

_FREE = ("meta", "payloadSchema")
"""Members with arbitrary JSON of the author."""


def with_free_doubles(raw: Any) -> Any:
    """Replace integers beyond 64 bits in ``meta`` and schemas by the doubles that they are."""
    if not isinstance(raw, dict):
        return raw
    changed = _with_doubles(raw)
    if isinstance(raw.get("steps"), dict):
        changed = {
            **changed,
            "steps": {name: _step_with_doubles(step) for name, step in raw["steps"].items()},
        }
    return changed


def _step_with_doubles(step: Any) -> Any:
    if not isinstance(step, dict):
        return step
    changed = _with_doubles(step)
    if isinstance(step.get("transitions"), dict):
        transitions = {
            name: _with_doubles(each) if isinstance(each, dict) else each
            for name, each in step["transitions"].items()
        }
        changed = {**changed, "transitions": transitions}
    return changed


def _with_doubles(part: dict[str, Any]) -> dict[str, Any]:
    return {**part, **{name: with_doubles(part[name]) for name in _FREE if name in part}}


def canonical(raw: Any) -> Any:
    """Return a definition with each duration in its stored form, such as P7D for P1W.

    Invalid members stay as they are, for the checks to report. The given definition is not changed.
    """
    if not isinstance(raw, dict):
        return raw
    changed = _with_duration(raw, "ttl")
    participants = raw.get("participants")
    if isinstance(participants, dict):
        claims = {
            role: _with_duration(each, "claim") if isinstance(each, dict) else each
            for role, each in participants.items()
        }
        changed = {**changed, "participants": claims}
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
