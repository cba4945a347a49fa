"""The README and the pages of ``docs``, and the code blocks in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md"))


def page(path: str) -> str:
    """Return the text of a page by its path from the root of the project."""
    return (ROOT / path).read_text()


def block(path: str, language: str, holds: str) -> str:
    """Return the only code block of a page with a language and a text in it."""
    blocks: list[tuple[str, str]] = re.findall(r"```(\w+)\n(.*?)```", page(path), re.DOTALL)
    (found,) = [text for kind, text in blocks if kind == language and holds in text]
    return found
