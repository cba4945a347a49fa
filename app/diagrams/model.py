"""The content of a diagram, whatever its format."""

import re
from typing import Literal

from msgspec import Struct

from app.contracts.flow import Flow, FlowStep, FlowTransition
from app.kit.durations import iso_duration

_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Control characters, those that turn the direction of what follows, and what XML 1.0 has no place for."""
ELLIPSIS = "…"


class Box(Struct, frozen=True):
    """A step. ``way_in``: the flow begins here (``start``), or may begin here (``entry``). ``end``: no
    transition leads away. ``label`` is one line, as long as its author made it."""

    name: str
    label: str
    way_in: Literal["start", "entry"] | None
    end: bool
    current: bool


class Arrow(Struct, frozen=True):
    """A transition between two boxes, given by their positions. ``label`` and each of the ``notes`` are one
    line, as long as their author made them. ``explicit``: a person chooses it."""

    name: str
    source: int
    target: int
    label: str
    notes: tuple[str, ...]
    explicit: bool


class Picture(Struct, frozen=True):
    """A flow as boxes and arrows, in the order of its author."""

    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def picture_of(flow: Flow, current: str | None = None) -> Picture:
    """The picture of a flow that has been checked. ``current`` is the name of the step to highlight; one
    that the flow does not have highlights none."""
    positions = {name: position for position, name in enumerate(flow.steps)}
    return Picture(
        title=_shown(flow.title) or _shown(flow.flow),
        boxes=tuple(_box(flow, name, step, current) for name, step in flow.steps.items()),
        arrows=tuple(
            Arrow(
                name=name,
                source=positions[step_name],
                target=positions[transition.step],
                label=_shown(transition.title) or _shown(name),
                notes=tuple(_notes(step, name, transition)),
                explicit=transition.explicit,
            )
            for step_name, step in flow.steps.items()
            for name, transition in step.transitions.items()
        ),
    )


def cut(text: str, length: int) -> str:
    """The text, its end replaced by an ellipsis when it has more characters than ``length``."""
    return text if len(text) <= length else text[: length - 1].rstrip() + ELLIPSIS


def _box(flow: Flow, name: str, step: FlowStep, current: str | None) -> Box:
    way_in: Literal["start", "entry"] | None = "entry" if step.initial else None
    return Box(
        name=name,
        label=_shown(step.title) or _shown(name),
        way_in="start" if name == flow.initial_step else way_in,
        end=not step.transitions,
        current=name == current,
    )


def _notes(step: FlowStep, name: str, transition: FlowTransition) -> list[str]:
    kinds = ["reversible"] if transition.reversible else []
    if step.timeout is not None and step.timeout.transition == name:
        kinds.append(f"after {iso_duration(step.timeout.after)}")
    notes = [" · ".join(kinds)] if kinds else []
    if transition.guard is not None:
        notes.append(f"[{_shown(transition.guard)}]")
    if transition.roles is not None:
        roles = ", ".join(_shown(role) for role in transition.roles)
        notes.append(f"roles: {roles}" if roles else "only by timeout")
    return notes


def _shown(text: str | None) -> str:
    """In one line, with a mark in the place of each character that cannot be shown."""
    return _UNSHOWN.sub("\ufffd", " ".join((text or "").split()))
