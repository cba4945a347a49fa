"""The content of a diagram, whatever its format."""

import re
from typing import Literal

from msgspec import Struct

from app.contracts.flow import Flow, FlowStep, FlowTransition
from app.kit.durations import iso_duration

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Control characters, changes of the writing direction, and characters that XML 1.0 does not allow."""
ELLIPSIS = "…"


class Box(Struct, frozen=True):
    """A step.

    ``entry``: the flow starts here (``start``), or can start here (``entry``). ``end``: no transition leads
    away. ``label`` is one line of any length.
    """

    name: str
    label: str
    entry: Literal["start", "entry"] | None
    end: bool
    current: bool


class Arrow(Struct, frozen=True):
    """A transition between two boxes, given by their positions.

    ``label`` and each of the ``notes`` are one line of any length. ``explicit``: a person chooses it.
    """

    name: str
    source: int
    target: int
    label: str
    notes: tuple[str, ...]
    explicit: bool


class Picture(Struct, frozen=True):
    """A flow as boxes and arrows, in the order of its definition."""

    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def picture_of(flow: Flow, current: str | None = None) -> Picture:
    """Return the picture of a checked flow.

    ``current`` is the step to highlight; a step that the flow does not have highlights none.
    """
    positions = {name: position for position, name in enumerate(flow.steps)}
    return Picture(
        title=_printable(flow.title) or _printable(flow.flow),
        boxes=tuple(_box(flow, name, step, current) for name, step in flow.steps.items()),
        arrows=tuple(
            Arrow(
                name=name,
                source=positions[step_name],
                target=positions[transition.step],
                label=_printable(transition.title) or _printable(name),
                notes=tuple(_notes(step, name, transition)),
                explicit=transition.explicit,
            )
            for step_name, step in flow.steps.items()
            for name, transition in step.transitions.items()
        ),
    )


def cut(text: str, length: int) -> str:
    """Return the text, its end replaced by an ellipsis if it is longer than ``length``."""
    return text if len(text) <= length else text[: length - 1].rstrip() + ELLIPSIS


def _box(flow: Flow, name: str, step: FlowStep, current: str | None) -> Box:
    entry: Literal["start", "entry"] | None = "entry" if step.initial else None
    return Box(
        name=name,
        label=_printable(step.title) or _printable(name),
        entry="start" if name == flow.initial_step else entry,
        end=not step.transitions,
        current=name == current,
    )


def _notes(step: FlowStep, name: str, transition: FlowTransition) -> list[str]:
    kinds = ["reversible"] if transition.reversible else []
    if step.timeout is not None and step.timeout.transition == name:
        kinds.append(f"after {iso_duration(step.timeout.after)}")
    notes = [" · ".join(kinds)] if kinds else []
    if transition.guard is not None:
        notes.append(f"[{_printable(transition.guard)}]")
    if transition.roles is not None:
        roles = ", ".join(_printable(role) for role in transition.roles)
        notes.append(f"roles: {roles}" if roles else "only by timeout")
    if transition.approvals is not None:
        notes.append(f"votes: {transition.approvals.count} of {_printable(transition.approvals.of)}")
    if transition.not_by:
        notes.append(f"not by: {', '.join(_printable(name) for name in transition.not_by)}")
    return notes


def _printable(text: str | None) -> str:
    """Return the text on one line, with U+FFFD for each character that cannot be shown."""
    return _UNPRINTABLE.sub("\ufffd", " ".join((text or "").split()))
