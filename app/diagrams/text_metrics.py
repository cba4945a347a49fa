"""Estimated width of text, because the server has no fonts."""

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
"""In fractions of the font size; slightly wider than Arial and similar fonts."""


class TextStyle(Struct, frozen=True):
    """The ``size`` of a font and the ``height`` of its lines, in px."""

    name: str
    size: float
    height: float


class TextLine(Struct, frozen=True):
    """A line of text as it is shown."""

    style: TextStyle
    text: str
    width: float


NAME, LABEL, NOTE = TextStyle("name", 14, 20), TextStyle("label", 12, 16), TextStyle("note", 11, 14)


def fit(style: TextStyle, text: str, max_width: float) -> TextLine:
    """Return the text, its end replaced by an ellipsis if it is wider than ``max_width`` px."""
    widths = [style.size * _width(character) for character in text]
    if sum(widths) <= max_width:
        return TextLine(style, text, sum(widths))
    width = style.size * _width(ELLIPSIS)
    end = 0
    while width + widths[end] <= max_width:
        width += widths[end]
        end += 1
    return TextLine(style, text[:end].rstrip() + ELLIPSIS, width)


def _width(character: str) -> float:
    known = _WIDTHS.get(character)
    if known is not None:
        return known
    if unicodedata.combining(character):
        return 0
    if character >= "\u2e80" or unicodedata.east_asian_width(character) in "WF":
        return _WIDE
    return _CAPITAL if character.isupper() else _ROUND
