"""Files with flow definitions."""

from pathlib import Path
from typing import Any

import msgspec


def write(path: Path, value: Any) -> None:
    """Replace a file atomically with bytes, or with a value as JSON."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(value if isinstance(value, bytes) else msgspec.json.encode(value))
    beside.replace(path)
