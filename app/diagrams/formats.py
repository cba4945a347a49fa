"""The formats of diagrams, by name."""

from typing import Literal

from app.contracts.flow import Flow
from app.diagrams.dot import dot
from app.diagrams.mermaid import mermaid
from app.diagrams.svg import svg

Format = Literal["mermaid", "dot", "svg"]
_DIAGRAMS = {"mermaid": mermaid, "dot": dot, "svg": svg}


def diagram(flow: Flow, form: Format, current: str | None = None) -> str:
    """Return a diagram of a checked flow; ``current`` is the step to highlight."""
    return _DIAGRAMS[form](flow, current)
