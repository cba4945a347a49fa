"""A flow as a Mermaid flowchart."""

import re

from app.contracts.flow import Flow
from app.diagrams.model import Arrow, Box, cut, picture_of

LABEL_LENGTH = 60
NOTE_LENGTH = 40
_MARKUP = re.compile(r"(?<![^\W_])[-_]|[-_](?![^\W_])|[^\w ,…-]")
"""Characters that Mermaid, its Markdown or its HTML may interpret: all but letters and digits of any
language, hyphens and underscores between them, blanks, commas and an ellipsis."""
_STYLES = (
    "    classDef start fill:#7b8794,stroke:#7b8794",
    "    classDef entry fill:none,stroke:#7b8794",
    "    classDef current fill:#fde68a,stroke:#b45309,stroke-width:3px,color:#1f2933",
)


def mermaid(flow: Flow, current: str | None = None) -> str:
    """Return the Mermaid source of a diagram of a checked flow; ``current`` is the step to highlight.

    Explicit transitions are dotted, end steps have round sides, and a dot points at the initial step.
    Mermaid draws at most 500 edges unless its page allows more (``maxEdges``).
    """
    picture = picture_of(flow, current)
    lines = ["flowchart TD"]
    for position, box in enumerate(picture.boxes):
        lines += _node_lines(position, box)
    lines += [_edge(arrow) for arrow in picture.arrows]
    return "\n".join([*lines, *_STYLES]) + "\n"


def _node_lines(position: int, box: Box) -> list[str]:
    label = _quote_lines(cut(box.label, LABEL_LENGTH))
    shape = f"([{label}])" if box.end else f"[{label}]"
    lines = [f"    s{position}{shape}{':::current' if box.current else ''}"]
    if box.entry is not None:
        lines.append(f'    in{position}((" ")):::{box.entry} --> s{position}')
    return lines


def _edge(arrow: Arrow) -> str:
    label = _quote_lines(cut(arrow.label, LABEL_LENGTH), *(cut(note, NOTE_LENGTH) for note in arrow.notes))
    return f"    s{arrow.source} {'-.->' if arrow.explicit else '-->'}|{label}| s{arrow.target}"


def _quote_lines(*lines: str) -> str:
    return '"' + "<br/>".join(_escaped(line) for line in lines) + '"'


def _escaped(text: str) -> str:
    return _MARKUP.sub(lambda match: f"#{ord(match[0])};", text)
