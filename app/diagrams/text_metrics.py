"""Lines of text, and how much room they take: an estimate, as no font is at hand where a diagram is made."""

import unicodedata

from msgspec import Struct

from app.diagrams.model import ELLIPSIS

_NARROW, _SLIM, _ROUND, _CAPITAL, _BROAD, _WIDE = 0.29, 0.39, 0.6, 0.74, 0.9, 1.05
_WIDTHS = {
    **dict.fromkeys("ijlI.,:;'|!`·", _NARROW),
    **dict.fromkeys('frt()[]{}-/\\" *^', _SLIM),
    **dict.fromkeys("&#=+<>~", _CAPITAL),
    **dict.fromkeys("mwM", _BROAD),
    **dict.fromkeys("W%@—…→", _WIDE),
}
"""In parts of the size of the font; a little more than Arial and its likes have."""


class Script(Struct, frozen=True):
    """A way of setting text: the ``size`` of its font and the ``height`` of its lines, in px."""

    name: str
    size: float
    height: float


class Line(Struct, frozen=True):
    """A line of text as it is shown."""

    script: Script
    text: str
    width: float


NAME, LABEL, NOTE = Script("name", 14, 20), Script("label", 12, 16), Script("note", 11, 14)


def fitted(script: Script, text: str, room: float) -> Line:
    """The text, its end replaced by an ellipsis when it is wider than ``room`` px."""
    widths = [script.size * _width(character) for character in text]
    if sum(widths) <= room:
        return Line(script, text, sum(widths))
    taken = script.size * _width(ELLIPSIS)
    end = 0
    while taken + widths[end] <= room:
        taken += widths[end]
        end += 1
    return Line(script, text[:end].rstrip() + ELLIPSIS, taken)


def _width(character: str) -> float:
    known = _WIDTHS.get(character)
    if known is not None:
        return known
    if unicodedata.combining(character):
        return 0
    if character >= "\u2e80" or unicodedata.east_asian_width(character) in "WF":
        return _WIDE
    return _CAPITAL if character.isupper() else _ROUND
