"""The corpus of definitions: sound ones, and broken ones with the findings expected of each."""

from pathlib import Path
from typing import Any

import msgspec

CORPUS = Path(__file__).parent.parent / "definitions"
BROKEN = sorted(CORPUS.glob("broken/*.json"))
SOUND = sorted(CORPUS.glob("sound/*.json"))
EXPECTED: dict[str, list[dict[str, str]]] = msgspec.json.decode((CORPUS / "findings.json").read_bytes())
"""Findings by the name of the broken file, in document order: severity, pointer, part of the message."""


def read(file: Path) -> Any:
    """Decode a file of the corpus."""
    return msgspec.json.decode(file.read_bytes())
