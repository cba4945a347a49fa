"""Definitions in files: one JSON file, or a folder of them."""

from pathlib import Path
from typing import Any

import msgspec

from app.contracts.ports import DefinitionSourceError


class FileSource:
    """The DefinitionSource port on files. A folder's ``*.json`` are read in the order of names."""

    def __init__(self, path: Path) -> None:
        self.name = f"file:{path}"
        self._path = path

    def read(self) -> dict[str, Any]:
        """Every definition, undecoded, by file name. Raises DefinitionSourceError."""
        if not self._path.exists():
            raise DefinitionSourceError(f"{self._path}: no such file or folder (FLOW_DEFINITIONS)")
        files = sorted(self._path.glob("*.json")) if self._path.is_dir() else [self._path]
        return {str(file): _decode(file) for file in files}


def _decode(file: Path) -> Any:
    try:
        return msgspec.json.decode(file.read_bytes())
    except OSError as refusal:
        raise DefinitionSourceError(f"{file}: {refusal.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as refusal:
        raise DefinitionSourceError(f"{file}: is not JSON: {refusal}") from None
