"""Faults of documents, whatever their format."""


class FormatError(Exception):
    """A document cannot be decoded; the message says where and why."""


def refuse_time(written: str) -> str:
    """Return the message for a date or time, which JSON does not have."""
    return f"{written} is a date or time, which JSON does not have; put it in quotes"
