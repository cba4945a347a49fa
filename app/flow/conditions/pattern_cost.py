"""The size of the program of a regular expression, which bounds the time to compile and match it.

Automata without back-tracking take, in the worst case, time in proportion to their size and to the text. A
repetition copies what it repeats, and repetitions in each other multiply: ``(.{1,50}){1,18}`` has 900 copies.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

LITERAL, RANGE, WIDE, UNICODE = 1, 2, 4, 650
"""Sizes of parts: a character, a range of ASCII, a negated set, and a class of Unicode such as all letters.
In the measured library one unit takes 2 µs to compile and 10 ns for each character of a text."""
MAX_SIZE = 10_000_000
"""The largest estimate."""

_PART = re.compile(
    r"(?P<quoted>\\Q.*?(?:\\E|\Z))"
    r"|(?P<unicode>\\[pP](?:\{[^}]*\}|.)?)"
    r"|(?P<wide>\\[WDSX.CRNw]|\.)"
    r"|(?P<range>\\[wdsh])"
    r"|(?P<code>\\x\{[0-9a-fA-F]*\}|\\u\{[0-9a-fA-F]*\}|\\u[0-9a-fA-F]{0,4}|\\x[0-9a-fA-F]{0,2}|\\[0-7]{1,3})"
    r"|(?P<escape>\\.)"
    r"|(?P<set>\[\^?\]?(?:\[:\^?\w+:\]|\\[pP]\{[^}]*\}|\\.|[^\]\\])*\]?)"
    r"|(?P<flags>\(\?[a-zA-Z-]*\))"
    r"|(?P<open>\((?:\?(?:P?<[^>]*>|[a-zA-Z-]*:)?)?)"
    r"|(?P<close>\))"
    r"|(?P<count>\{\s*\d*\s*(?:,\s*\d*\s*)?\})"
    r"|(?P<repeat>[*+?])"
    r"|(?P<either>\|)"
    r"|(?P<literal>.)",
    re.DOTALL,
)
_UNICODE = re.compile(r"\\[pP]")
_NEGATED = re.compile(r"\[\^|\[:\^|\\[WDS]")


@lru_cache(maxsize=4096)
def pattern_size(pattern: str, *, unicode: int = UNICODE) -> int:
    """Estimate the size of the program of a pattern, at least 1.

    Args:
        pattern: A regular expression.
        unicode: The size of a class of Unicode. Large classes take long to compile, but no longer to match.
    """
    sums = [0]
    last = 0  # the size of the part before, which a repetition copies
    folds = 2 if re.search(r"\(\?[a-zA-Z]*i", pattern) else 1
    for kind, text in _parts(pattern):
        if kind in ("open", "flags"):
            last = 0
            if kind == "open":
                sums.append(LITERAL)
            continue
        if kind == "close":
            last = sums.pop() + LITERAL if len(sums) > 1 else LITERAL
        elif kind in ("count", "repeat"):
            copies = _copies(text)
            grown = min(max(last, LITERAL) * copies + LITERAL, MAX_SIZE)
            sums[-1] += grown - last
            last = grown
            continue
        else:
            last = _size_of(kind, text, unicode) * folds
        sums[-1] = min(sums[-1] + last, MAX_SIZE)
    return max(1, min(sum(sums), MAX_SIZE))


def _parts(pattern: str) -> Iterator[tuple[str, str]]:
    for found in _PART.finditer(pattern):
        if found.lastgroup is not None:
            yield found.lastgroup, found[0]


def _copies(repetition: str) -> int:
    counts = [int(number[:9]) for number in re.findall(r"\d+", repetition)]
    return max([1, *counts]) + (repetition.rstrip(" }").endswith(","))


def _size_of(kind: str, text: str, unicode: int) -> int:
    if kind in ("unicode", "wide", "range"):
        return {"unicode": unicode, "wide": WIDE, "range": RANGE}[kind]
    if kind == "set":
        size = RANGE * max(1, text.count("-")) + len(text) // 4 + unicode * len(_UNICODE.findall(text))
        return size + (WIDE if _NEGATED.search(text) or not text.isascii() else 0) + 2 * _wide(text)
    if kind == "quoted":
        return max(LITERAL, len(text.encode(errors="replace")))
    return LITERAL if text.isascii() else WIDE


def _wide(text: str) -> int:
    return sum(1 for character in text if not character.isascii())
