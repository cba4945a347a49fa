"""A flow as an SVG picture."""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from app.contracts.flow import Flow
from app.diagrams.drawing import disc, document, group, line_of, pointed_line, rectangle, text
from app.diagrams.layout import Dimensions, Frame, Link, Placement, Route, layered_layout, tree_layout
from app.diagrams.model import Arrow, Box, Picture, picture_of
from app.diagrams.text_metrics import LABEL, NAME, NOTE, TextLine, fit
from app.diagrams.traversal import back_arrows, spanning_arrows

MAX_BOX_TEXT_WIDTH, MAX_LABEL_WIDTH = 230.0, 200.0
MAX_LISTED = 12
"""Number of transitions named in the box of a step if the flow has too many arrows to draw."""
MARGIN = 16.0
CORNER = 8.0
RIM = 4.0


class _Content(Struct, frozen=True):
    """The text of a box or an arrow's label: the lines that are shown, and the full text."""

    lines: list[TextLine]
    full_text: str

    def size(self, horizontal: float, vertical: float) -> Dimensions:
        """Return the size with horizontal and vertical padding (both sides together)."""
        width = max(line.width for line in self.lines)
        return Dimensions(width + horizontal, sum(line.style.height for line in self.lines) + vertical)


def svg(flow: Flow, current: str | None = None) -> str:
    """Return a checked flow as one ``svg`` element; ``current`` is the step to highlight.

    Explicit transitions are dashed, end steps have an inner border, and a dot marks the initial step (a ring:
    other steps at which the flow can start). If the flow has too many transitions to follow their lines, only
    the shortest ways are drawn, and the other transitions are named in the boxes of their steps. Tooltips
    contain shortened texts in full.
    """
    picture = picture_of(flow, current)
    labels = [_label(arrow) for arrow in picture.arrows]
    back = back_arrows(picture)
    links = tuple(
        Link(arrow.source, arrow.target, label.size(4, 2), back=position in back)
        for position, (arrow, label) in enumerate(zip(picture.arrows, labels, strict=True))
    )
    dots = tuple(position for position, box in enumerate(picture.boxes) if box.entry is not None)
    drawn = list(range(len(links)))
    contents = _contents(picture, drawn)
    placement = layered_layout(_sizes(contents), dots, links)
    if placement is None:
        drawn = sorted(spanning_arrows(picture))
        contents = _contents(picture, drawn)
        placement = tree_layout(_sizes(contents), dots, tuple(links[position] for position in drawn))
    parts = [
        *_dots(picture, placement),
        *(
            _arrow(picture.arrows[position], labels[position], frame, route)
            for position, frame, route in zip(drawn, placement.labels, placement.routes, strict=True)
        ),
        *map(_box, picture.boxes, contents, placement.boxes),
    ]
    at = next((f" (at {box.label})" for box in picture.boxes if box.current), "")
    return document(picture.title + at, placement.width, placement.height, MARGIN, parts)


def _label(arrow: Arrow) -> _Content:
    lines = [
        fit(LABEL, arrow.label, MAX_LABEL_WIDTH),
        *(fit(NOTE, note, MAX_LABEL_WIDTH) for note in arrow.notes),
    ]
    return _Content(lines, "\n".join([_name_and_label(arrow), *arrow.notes]))


def _contents(picture: Picture, drawn: Sequence[int]) -> list[_Content]:
    """Return the content of each box, with the transitions that are not ``drawn``."""
    named: list[list[str]] = [[] for _ in picture.boxes]
    shown = set(drawn)
    for position, arrow in enumerate(picture.arrows):
        if position not in shown:
            named[arrow.source].append(f"{arrow.label} → {picture.boxes[arrow.target].label}")
    contents = []
    for box, others in zip(picture.boxes, named, strict=True):
        more = [f"and {len(others) - MAX_LISTED} more"] if len(others) > MAX_LISTED else []
        notes = [fit(NOTE, note, MAX_BOX_TEXT_WIDTH) for note in (*others[:MAX_LISTED], *more)]
        title = fit(NAME, box.label, MAX_BOX_TEXT_WIDTH)
        contents.append(_Content([title, *notes], "\n".join([_name_and_label(box), *others])))
    return contents


def _sizes(contents: Sequence[_Content]) -> tuple[Dimensions, ...]:
    return tuple(content.size(28, 20) for content in contents)


def _name_and_label(part: Box | Arrow) -> str:
    return part.label if part.label == part.name else f"{part.label} ({part.name})"


def _box(box: Box, content: _Content, frame: Frame) -> str:
    outlines = [rectangle("box", frame, CORNER)]
    outlines += [rectangle("rim", frame, CORNER - RIM / 2, RIM)] if box.end else []
    style = "step current" if box.current else "step"
    return group(style, ("step", box.name), content.full_text, *outlines, text(content.lines, frame))


def _arrow(arrow: Arrow, label: _Content, frame: Frame, route: Route) -> str:
    style = "transition explicit" if arrow.explicit else "transition"
    parts = (line_of(route.before), pointed_line(route.after), text(label.lines, frame))
    return group(style, ("transition", arrow.name), label.full_text, *parts)


def _dots(picture: Picture, placement: Placement) -> Iterator[str]:
    for position, (frame, points) in placement.dots.items():
        yield disc(picture.boxes[position].entry or "entry", frame) + pointed_line(points)
