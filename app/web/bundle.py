"""The bundle: its sources and its files, and whether the files were built from the sources."""

import hashlib
from pathlib import Path

WEB = Path(__file__).parent
BUILT = "built"
MARK = "sources.sha256"
"""The file in the bundle with the digest of its sources."""
ENTRY = "flow-client.js"
NOTICES = "third-party-notices.md"
_SOURCE_FILES = ("package.json", "package-lock.json", ".npmrc", "vite.config.js")
_SOURCE_FOLDERS = ("client", "site", "style")


class Bundle:
    """The bundle of one folder of sources.

    Args:
        folder: ``app/web`` of a checkout, an sdist or an installation.
    """

    def __init__(self, folder: Path = WEB) -> None:
        self.folder = folder
        self.files = folder / BUILT

    def sources(self) -> list[Path]:
        """List the files that the bundle depends on, sorted by their path."""
        files = [self.folder / name for name in _SOURCE_FILES]
        for name in _SOURCE_FOLDERS:
            files += (self.folder / name).rglob("*")
        found = [file for file in files if file.is_file()]
        return sorted(found, key=lambda file: file.relative_to(self.folder).as_posix())

    @property
    def has_sources(self) -> bool:
        """True in a checkout and an sdist, false in a wheel."""
        return all((self.folder / name).is_file() for name in _SOURCE_FILES)

    @property
    def exists(self) -> bool:
        """True if there is a complete bundle, whichever sources it was built from."""
        return (self.files / MARK).is_file() and (self.files / ENTRY).is_file()

    def digest_sources(self) -> str:
        """Compute the digest of names and contents of all sources.

        Line endings do not count, because git may convert them.
        """
        digest = hashlib.sha256()
        for file in self.sources():
            content = file.read_bytes().replace(b"\r\n", b"\n")
            name = file.relative_to(self.folder).as_posix()
            digest.update(f"{name}\n{len(content)}\n".encode())
            digest.update(content)
        return digest.hexdigest()

    @property
    def is_current(self) -> bool:
        """True if the bundle was built from the present sources."""
        return self.exists and (self.files / MARK).read_text().strip() == self.digest_sources()
