"""Definitions in files: one file, or a folder of them, in JSON, YAML or TOML."""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from watchfiles import awatch

from app.contracts.errors import DefinitionSourceError
from app.contracts.ports.sources import FoundDefinition
from app.sources.formats import DECODERS, MAX_BYTES, decode

LABEL = "file:"
MAX_FILES = 1000
POLL_SECONDS = 2.0
"""Interval of polls beside notifications, which network file systems and targets of links may not send."""
_SETTLED_MS = 100


class FileSource:
    """The DefinitionSource port on files, each with one definition.

    The files of a folder are read in the order of their names; hidden ones are skipped.
    """

    local = True

    def __init__(self, path: Path) -> None:
        self.name = f"{LABEL}{path}"
        self._path = path
        self._read_before: dict[str, FoundDefinition] = {}
        self._fingerprint: object = None

    def read(self) -> dict[str, Any]:
        """Return every definition, unchecked, by file name. Raises DefinitionSourceError with every fault."""
        found = self.find()
        faults = [definition.fault for definition in found if definition.fault]
        if faults:
            raise DefinitionSourceError("; ".join(faults))
        return {definition.place: definition.raw for definition in found}

    def find(self) -> list[FoundDefinition]:
        """Do what ``load`` does, for programs without an event loop."""
        self._fingerprint = self._take_fingerprint()  # first: files that change meanwhile are read again
        read = (_read_file(file, self._read_before.get(str(file))) for file in self._files())
        found = [definition for definition in read if definition is not None]
        self._read_before = {definition.place: definition for definition in found}
        return found

    async def load(self) -> list[FoundDefinition]:
        """Return every definition; those that cannot be read have a fault.

        Raises:
            DefinitionSourceError: There is no such file or folder.
        """
        return await asyncio.to_thread(self.find)

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yield when a file was written, replaced, added or removed since all were read."""
        while True:
            async with aclosing(self._notices()) as notices:
                async for touched in notices:
                    if touched or await self._differs():
                        yield

    def produced(self, source: str) -> bool:
        """Return whether a version that names ``source`` may have come from these files."""
        single = str(self._path) in self._read_before
        return source == _label(self._path) if single else source.startswith(LABEL)

    async def _notices(self) -> AsyncGenerator[bool, None]:
        """Yield as ``_watch`` does until it ends; without a folder or free watches, once after a pause."""
        try:
            async with aclosing(self._watch()) as notices:
                async for touched in notices:
                    yield touched
        except (OSError, RuntimeError):  # no such folder, or no free watches
            await asyncio.sleep(POLL_SECONDS)
            yield False

    async def _watch(self) -> AsyncGenerator[bool, None]:
        """Yield whether a file was touched, for as long as the folder is the same one.

        Yields at once, whenever something happened in the folder, and every ``POLL_SECONDS``. A single file
        is watched through its folder, because editors replace files.
        """
        folder = self._path if self._path.is_dir() else self._path.parent
        watched = _identity(folder)
        notices = awatch(
            folder,
            watch_filter=None,
            step=_SETTLED_MS,
            rust_timeout=int(POLL_SECONDS * 1000),
            yield_on_timeout=True,
            recursive=False,
        )
        yield False
        async with aclosing(notices):
            async for notice in notices:
                yield any(self._concerns(Path(path)) for _, path in notice)
                if _identity(folder) != watched:
                    return

    async def _differs(self) -> bool:
        return await asyncio.to_thread(self._take_fingerprint) != self._fingerprint

    def _concerns(self, touched: Path) -> bool:
        return touched.name == self._path.name if self._path.is_file() else _is_definition(touched)

    def _take_fingerprint(self) -> object:
        """Return a value that changes when a file does, as far as that shows without reading."""
        try:
            return [(str(file), _identity(file)) for file in self._files()]
        except DefinitionSourceError as refusal:
            return str(refusal)

    def _files(self) -> list[Path]:
        try:
            if not self._path.is_dir():
                if self._path.exists():
                    return [self._path]
                raise DefinitionSourceError(f"{self._path}: no such file or folder")
            files = sorted(file for file in self._path.iterdir() if _is_definition(file))
        except OSError as refusal:
            raise DefinitionSourceError(f"{self._path}: {refusal.strerror}") from None
        if len(files) > MAX_FILES:
            raise DefinitionSourceError(f"{self._path}: has more than {MAX_FILES} definitions")
        return files


def _is_definition(file: Path) -> bool:
    if file.suffix not in DECODERS or file.name.startswith("."):
        return False
    return file.is_file() or not file.exists()  # a dangling link is a fault


def _read_file(file: Path, before: FoundDefinition | None) -> FoundDefinition | None:
    """Read a file; ``before`` if its bytes are the same, None if it was removed meanwhile."""
    place, label = str(file), _label(file)
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as refusal:
        if not os.path.lexists(file):
            return None
        return FoundDefinition(place, label, str(refusal), fault=f"{place}: {refusal.strerror}")
    digest = hashlib.sha256(content).hexdigest()
    if before is not None and before.digest == digest:
        return before
    suffix = file.suffix or ".json"
    if suffix not in DECODERS:
        fault = f"{place}: its name ends in {suffix}, not in {', '.join(DECODERS)}"
        return FoundDefinition(place, label, digest, fault=fault)
    try:
        return FoundDefinition(place, label, digest, decode(content, suffix, place))
    except DefinitionSourceError as refusal:
        return FoundDefinition(place, label, digest, fault=str(refusal))


def _label(file: Path) -> str:
    return f"{LABEL}{file.name}"


def _identity(path: Path) -> tuple[int, ...]:
    """Return the identity of the file or folder at a path, links followed; empty if there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    if path.is_dir():
        return found.st_dev, found.st_ino
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
