"""Names in a definition: what they may be, and which one was probably meant."""

import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import islice

SLUG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}\Z")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_\-]{0,63}\Z")
SLUG_RULE = "a slug is 1 to 64 letters, digits, '_', '-' or '.', no '-' or '.' first"
MAX_ROLE = 128
_SHOWN = 80
_LISTED = 8
_COMPARED = 500
_LEAST_ALIKE, _MOST_ALIKE = 4, 40


def quoted(text: str) -> str:
    """A text of the author in quotes, its length bounded."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def is_role(name: str) -> bool:
    """A role is 1 to ``MAX_ROLE`` printable characters, as identity providers name them; no space at
    either end."""
    return 0 < len(name) <= MAX_ROLE and name.isprintable() and name == name.strip()


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that differs from one that is not known by at most a character, beside its case and
    its dashes; None: there is none. It takes no longer for many known names."""
    spellings = _spellings(tuple(islice(known, _COMPARED)))
    return next((spellings[form] for form in _forms(name) if form in spellings), None)


def instead(name: str, known: Collection[str], what: str) -> str:
    """Advice about a name that is not known: the one that is most like it, or what there is."""
    alike = nearest(name, known)
    if alike is not None:
        return f"did you mean {quoted(alike)}?"
    listed = ", ".join(quoted(candidate) for candidate in islice(known, _LISTED))
    more = ", …" if len(known) > _LISTED else ""
    return f"{what}: {listed}{more}" if listed else what


@lru_cache(maxsize=8)
def _spellings(known: tuple[str, ...]) -> dict[str, str]:
    """The first of the known names by each of its forms; its own counts before those of others."""
    whole = {form: name for name in reversed(known) for form in _forms(name)}
    return whole | {plain_spelling(name): name for name in reversed(known)}


def _forms(name: str) -> Iterator[str]:
    """A name as it is compared: whole, and with each of its characters left out. Two names with a form in
    common differ by at most one character that is added, left out or another, or by two that are swapped."""
    plain = plain_spelling(name)
    yield plain
    if _LEAST_ALIKE <= len(plain) <= _MOST_ALIKE:
        for at in range(len(plain)):
            yield plain[:at] + plain[at + 1 :]


def plain_spelling(name: str) -> str:
    """Return a name without its case and its dashes, at most as long as names are compared."""
    return name[:_SHOWN].casefold().replace("-", "").replace("_", "")
