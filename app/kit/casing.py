"""Spellings of names."""

import re


def camel_case(name: str) -> str:
    """Return a name in snake_case as camelCase."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def snake_case(name: str) -> str:
    """Return a name in camelCase as snake_case."""
    return re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name)
