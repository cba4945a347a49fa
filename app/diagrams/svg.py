"""A flow as an SVG picture."""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from app.contracts.flow import Flow
from app.diagrams.drawing import disc, document, group, line_of, pointed_line, rectangle, text
from app.diagrams.layout import Frame, Link, Placement, Size, Way, place, place_tree
from app.diagrams.model import Arrow, Box, Picture, picture_of
from app.diagrams.text_metrics import LABEL, NAME, NOTE, Line, fitted
from app.diagrams.traversal import back_arrows, spanning_arrows

BOX_ROOM, LABEL_ROOM = 230.0, 200.0
LISTED = 12
"""How many transitions are named in the box of a step whose arrows are too many to be drawn."""
MARGIN = 16.0
CORNER = 8.0
RIM = 4.0


class _Content(Struct, frozen=True):
    """The text of a box or of the label of an arrow: the lines that are shown, and the whole."""

    lines: list[Line]
    whole: str

    def size(self, beside: float, around: float) -> Size:
        """With that much room left and right together, and above and below."""
        width = max(line.width for line in self.lines)
        return Size(width + beside, sum(line.script.height for line in self.lines) + around)


def svg(flow: Flow, current: str | None = None) -> str:
    """A picture of a flow that has been checked, as one ``svg`` element; ``current`` is the step to
    highlight.

    Explicit transitions are dashed, ends have a rim, and a dot stands where the flow begins (a ring where it
    may begin too). Of a flow with too many transitions to follow their lines it shows the shortest ways, and
    names the others in the boxes of the steps that they lead away from. What was cut is whole in tooltips.
    """
    picture = picture_of(flow, current)
    labels = [_label(arrow) for arrow in picture.arrows]
    back = back_arrows(picture)
    links = tuple(
        Link(arrow.source, arrow.target, label.size(4, 2), back=position in back)
        for position, (arrow, label) in enumerate(zip(picture.arrows, labels, strict=True))
    )
    dots = tuple(position for position, box in enumerate(picture.boxes) if box.way_in is not None)
    drawn = list(range(len(links)))
    contents = _contents(picture, drawn)
    placement = place(_sizes(contents), dots, links)
    if placement is None:
        drawn = sorted(spanning_arrows(picture))
        contents = _contents(picture, drawn)
        placement = place_tree(_sizes(contents), dots, tuple(links[position] for position in drawn))
    parts = [
        *_dots(picture, placement),
        *(
            _arrow(picture.arrows[position], labels[position], frame, way)
            for position, frame, way in zip(drawn, placement.labels, placement.ways, strict=True)
        ),
        *map(_box, picture.boxes, contents, placement.boxes),
    ]
    at = next((f" (at {box.label})" for box in picture.boxes if box.current), "")
    return document(picture.title + at, placement.width, placement.height, MARGIN, parts)


def _label(arrow: Arrow) -> _Content:
    lines = [
        fitted(LABEL, arrow.label, LABEL_ROOM),
        *(fitted(NOTE, note, LABEL_ROOM) for note in arrow.notes),
    ]
    return _Content(lines, "\n".join([_named(arrow), *arrow.notes]))


def _contents(picture: Picture, drawn: Sequence[int]) -> list[_Content]:
    """By box. Transitions that are not ``drawn`` are named in it."""
    named: list[list[str]] = [[] for _ in picture.boxes]
    shown = set(drawn)
    for position, arrow in enumerate(picture.arrows):
        if position not in shown:
            named[arrow.source].append(f"{arrow.label} → {picture.boxes[arrow.target].label}")
    contents = []
    for box, others in zip(picture.boxes, named, strict=True):
        more = [f"and {len(others) - LISTED} more"] if len(others) > LISTED else []
        notes = [fitted(NOTE, note, BOX_ROOM) for note in (*others[:LISTED], *more)]
        contents.append(
            _Content([fitted(NAME, box.label, BOX_ROOM), *notes], "\n".join([_named(box), *others]))
        )
    return contents


def _sizes(contents: Sequence[_Content]) -> tuple[Size, ...]:
    return tuple(content.size(28, 20) for content in contents)


def _named(part: Box | Arrow) -> str:
    return part.label if part.label == part.name else f"{part.label} ({part.name})"


def _box(box: Box, content: _Content, frame: Frame) -> str:
    outlines = [rectangle("box", frame, CORNER)]
    outlines += [rectangle("rim", frame, CORNER - RIM / 2, RIM)] if box.end else []
    style = "step current" if box.current else "step"
    return group(style, ("step", box.name), content.whole, *outlines, text(content.lines, frame))


def _arrow(arrow: Arrow, label: _Content, frame: Frame, way: Way) -> str:
    style = "transition explicit" if arrow.explicit else "transition"
    parts = (line_of(way.before), pointed_line(way.after), text(label.lines, frame))
    return group(style, ("transition", arrow.name), label.whole, *parts)


def _dots(picture: Picture, placement: Placement) -> Iterator[str]:
    for position, (frame, points) in placement.dots.items():
        yield disc(picture.boxes[position].way_in or "entry", frame) + pointed_line(points)
