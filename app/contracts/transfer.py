"""Values of ``data export`` and ``data import``."""

from collections.abc import Callable

from msgspec import Struct

Progress = Callable[[str, int], None]
"""Callback with a collection and the number of its documents so far, called from time to time."""


class TransferReport(Struct, frozen=True):
    """The content of an export file.

    Args:
        documents: Their number by collection.
        sha256: Checksum of the uncompressed content, in hexadecimal.
        bytes: Size of the uncompressed content.
        already_there: Documents that an import found in the database, as in the file.
    """

    documents: dict[str, int]
    sha256: str
    bytes: int
    already_there: int = 0
