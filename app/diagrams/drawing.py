"""The elements of an SVG diagram."""

from collections.abc import Sequence
from html import escape
from math import dist

from app.diagrams.layout import Frame, Point
from app.diagrams.text_metrics import TextLine

CORNER = 6.0
HEAD_LENGTH, HEAD_WIDTH = 9.0, 8.0

STYLE = """
.flow-diagram{max-width:100%;height:auto}
.flow-diagram text{font-family:Arial,Helvetica,'Liberation Sans',sans-serif;text-anchor:middle;fill:#1f2933}
.flow-diagram .name{font-size:14px}
.flow-diagram .label{font-size:12px}
.flow-diagram .note{font-size:11px;fill:#52606d}
.flow-diagram .page{fill:#ffffff}
.flow-diagram .box{fill:#f4f6f8;stroke:#52606d;stroke-width:1.5}
.flow-diagram .rim,.flow-diagram .entry{fill:none;stroke:#52606d}
.flow-diagram .line{fill:none;stroke:#52606d;stroke-width:1.5}
.flow-diagram .explicit .line{stroke-dasharray:6 4}
.flow-diagram .head,.flow-diagram .start{fill:#52606d}
.flow-diagram .current .box{fill:#fde68a;stroke:#b45309;stroke-width:3}
@media (prefers-color-scheme:dark){
.flow-diagram text{fill:#e4e7eb}
.flow-diagram .note{fill:#9aa5b1}
.flow-diagram .page{fill:#15191e}
.flow-diagram .box{fill:#252c34;stroke:#9aa5b1}
.flow-diagram .rim,.flow-diagram .entry,.flow-diagram .line{stroke:#9aa5b1}
.flow-diagram .head,.flow-diagram .start{fill:#9aa5b1}
.flow-diagram .current .box{fill:#78350f;stroke:#fbbf24}
.flow-diagram .current .note{fill:#e4e7eb}
}
"""
"""For light and dark pages; every selector begins with the class of the diagram, which a page may embed."""


def document(title: str, width: float, height: float, margin: float, parts: Sequence[str]) -> str:
    """Return the ``svg`` element around parts of a total width and height."""
    wide, high = number(width + 2 * margin), number(height + 2 * margin)
    begin = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="flow-diagram" role="img" width="{wide}"'
        f' height="{high}" viewBox="0 0 {wide} {high}">'
    )
    page = f'<rect class="page" width="{wide}" height="{high}"/>'
    moved = f'<g transform="translate({number(margin)} {number(margin)})">'
    head = [begin, f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", page, moved]
    return "\n".join([*head, *parts, "</g>", "</svg>\n"])


def group(style: str, member: tuple[str, str], tooltip: str, *parts: str) -> str:
    """Return a group of parts; ``member`` is the ``data-`` attribute that names it for programs."""
    attribute = f'data-{member[0]}="{escape(member[1])}"'
    return f'<g class="{style}" {attribute}><title>{escape(tooltip)}</title>{"".join(parts)}</g>'


def rectangle(style: str, frame: Frame, corner: float, inset: float = 0) -> str:
    """Return a rectangle with round corners, ``inset`` px inside the frame."""
    left, top = frame.x - frame.width / 2 + inset, frame.y - frame.height / 2 + inset
    width, height = number(frame.width - 2 * inset), number(frame.height - 2 * inset)
    return (
        f'<rect class="{style}" x="{number(left)}" y="{number(top)}" width="{width}" height="{height}"'
        f' rx="{number(corner)}"/>'
    )


def disc(style: str, frame: Frame) -> str:
    """Return a circle that fills its frame."""
    return (
        f'<circle class="{style}" cx="{number(frame.x)}" cy="{number(frame.y)}"'
        f' r="{number(frame.width / 2)}"/>'
    )


def text(lines: Sequence[TextLine], frame: Frame) -> str:
    """Return lines of text in the middle of the frame."""
    top = frame.y - sum(line.style.height for line in lines) / 2
    elements = []
    for line in lines:
        base = top + line.style.height / 2 + line.style.size * 0.35
        elements.append(
            f'<text class="{line.style.name}" x="{number(frame.x)}" y="{number(base)}">'
            f"{escape(line.text)}</text>"
        )
        top += line.style.height
    return "".join(elements)


def line_of(points: Sequence[Point]) -> str:
    """Return a line with round corners."""
    path = [f"M{_coordinates(points[0])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        near = min(CORNER, dist(before, corner) / 2, dist(corner, after) / 2)
        start, end = _towards(corner, before, near), _towards(corner, after, near)
        path.append(f"L{_coordinates(start)}Q{_coordinates(corner)} {_coordinates(end)}")
    return f'<path class="line" d="{"".join(path)}L{_coordinates(points[-1])}"/>'


def pointed_line(points: Sequence[Point]) -> str:
    """Return a line with round corners and an arrowhead at its end."""
    tip, before = points[-1], points[-2]
    foot = _towards(tip, before, HEAD_LENGTH)
    x, y = _towards((0, 0), (tip[1] - before[1], before[0] - tip[0]), HEAD_WIDTH / 2)
    head = "L".join(
        _coordinates(corner) for corner in (tip, (foot[0] + x, foot[1] + y), (foot[0] - x, foot[1] - y))
    )
    return f'{line_of([*points[:-1], foot])}<path class="head" d="M{head}Z"/>'


def number(value: float) -> str:
    """Return a length in px, rounded to a tenth."""
    return f"{value:.1f}".removesuffix(".0")


def _towards(start: Point, end: Point, length: float) -> Point:
    """Return the point ``length`` px from ``start`` towards ``end``, at most ``end``."""
    whole = dist(start, end)
    part = min(1.0, length / whole) if whole else 0.0
    return start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part


def _coordinates(point: Point) -> str:
    return f"{number(point[0])} {number(point[1])}"
