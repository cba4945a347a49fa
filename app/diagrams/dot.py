"""A flow in DOT, the language of Graphviz."""

from app.contracts.flow import Flow
from app.diagrams.model import Arrow, Box, cut, picture_of

LABEL_LENGTH = 60
NOTE_LENGTH = 40
_INK = 'color="#52606d", fontcolor="#1f2933", fontname="Helvetica"'
_ENTRY_STYLES = {"start": 'fillcolor="#52606d"', "entry": 'fillcolor="#ffffff"'}


def dot(flow: Flow, current: str | None = None) -> str:
    """Return the DOT source of a diagram of a checked flow; ``current`` is the step to highlight.

    Explicit transitions are dashed, end steps have a double border, and a dot points at the initial step.
    """
    picture = picture_of(flow, current)
    lines = [
        f"digraph {_quote_lines(picture.title)} {{",
        f'    node [shape=box, style="rounded,filled", fillcolor="#f4f6f8", {_INK}];',
        f"    edge [fontsize=11, {_INK}];",
    ]
    for position, box in enumerate(picture.boxes):
        lines += _node_lines(position, box)
    lines += [_edge(arrow) for arrow in picture.arrows]
    return "\n".join([*lines, "}"]) + "\n"


def _node_lines(position: int, box: Box) -> list[str]:
    attributes = [f"label={_quote_lines(cut(box.label, LABEL_LENGTH))}"]
    attributes += ["peripheries=2"] if box.end else []
    attributes += ['fillcolor="#fde68a"', 'color="#b45309"', "penwidth=3"] if box.current else []
    lines = [f"    s{position} [{', '.join(attributes)}];"]
    if box.entry is not None:
        style = f'shape=circle, style=filled, label="", width=0.15, {_ENTRY_STYLES[box.entry]}'
        lines += [f"    in{position} [{style}];", f"    in{position} -> s{position};"]
    return lines


def _edge(arrow: Arrow) -> str:
    label = _quote_lines(cut(arrow.label, LABEL_LENGTH), *(cut(note, NOTE_LENGTH) for note in arrow.notes))
    dashed = ", style=dashed" if arrow.explicit else ""
    return f"    s{arrow.source} -> s{arrow.target} [label={label}{dashed}];"


def _quote_lines(*lines: str) -> str:
    """Quote a string; Graphviz interprets escapes, and character references as in HTML."""
    return '"' + "\\n".join(_escaped(line) for line in lines) + '"'


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
