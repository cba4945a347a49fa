"""The code blocks of the README."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def block(language: str, holds: str) -> str:
    """Return the only block of a language that contains a text."""
    (found,) = [text for kind, text in BLOCKS if kind == language and holds in text]
    return found
