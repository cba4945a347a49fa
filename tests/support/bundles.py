"""Bundles of browser files that a test may change."""

import shutil
from pathlib import Path

from app.web.bundle import ENTRY, MARK, WEB, Bundle


def copy_sources(folder: Path) -> Bundle:
    """Copy the sources, beside a bundle that claims to be built from them."""
    copy = Bundle(folder)
    for source in Bundle().sources():
        target = copy.folder / source.relative_to(WEB)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    copy.files.mkdir()
    (copy.files / ENTRY).write_text("export {};\n")
    (copy.files / MARK).write_text(f"{copy.digest_sources()}\n")
    return copy
