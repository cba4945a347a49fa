"""Names in a definition: their syntax, and suggestions for misspelt ones."""

import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import islice

SLUG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}\Z")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_\-]{0,63}\Z")
SLUG_RULE = "a slug is 1 to 64 letters, digits, '_', '-' or '.', no '-' or '.' first"
MAX_ROLE = 128
ROLE_RULE = f"1 to {MAX_ROLE} printable characters, without spaces at its ends"
_MAX_SHOWN = 80
_MAX_LISTED = 8
_MAX_COMPARED = 500
_MIN_FUZZY, _MAX_FUZZY = 4, 40
"""Characters of a name for which spellings with one character less are compared."""


def quoted(text: str) -> str:
    """Return a text of the author in quotes, cut to a bounded length."""
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")


def is_role(name: str) -> bool:
    """True for 1 to ``MAX_ROLE`` printable characters, without a space at either end.

    These are the role names of identity providers.
    """
    return 0 < len(name) <= MAX_ROLE and name.isprintable() and name == name.strip()


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the known name that differs by at most one character, apart from its case and its dashes.

    None if there is none. The time does not grow with the number of known names.
    """
    spellings = _spellings(tuple(islice(known, _MAX_COMPARED)))
    return next((spellings[form] for form in _forms(name) if form in spellings), None)


def instead(name: str, known: Collection[str], what: str) -> str:
    """Return the advice about an unknown name: the most similar known one, or a list of them."""
    alike = nearest(name, known)
    if alike is not None:
        return f"did you mean {quoted(alike)}?"
    listed = ", ".join(quoted(candidate) for candidate in islice(known, _MAX_LISTED))
    more = ", …" if len(known) > _MAX_LISTED else ""
    return f"{what}: {listed}{more}" if listed else what


@lru_cache(maxsize=8)
def _spellings(known: tuple[str, ...]) -> dict[str, str]:
    """Return the known names by their forms; a name of its own counts before the forms of others."""
    whole = {form: name for name in reversed(known) for form in _forms(name)}
    return whole | {plain_spelling(name): name for name in reversed(known)}


def _forms(name: str) -> Iterator[str]:
    """Yield the forms of a name in which it is compared: whole, and without each of its characters.

    Two names with a common form differ by one character that is added, removed or replaced, or by two that
    are swapped.
    """
    plain = plain_spelling(name)
    yield plain
    if _MIN_FUZZY <= len(plain) <= _MAX_FUZZY:
        for at in range(len(plain)):
            yield plain[:at] + plain[at + 1 :]


def plain_spelling(name: str) -> str:
    """Return a name without its case and its dashes, cut to the length that is compared."""
    return name[:_MAX_SHOWN].casefold().replace("-", "").replace("_", "")
