"""Processes: embedded servers and workers, each tied to the life of its parent."""

from app.contracts.errors import OperationalError


class StartError(OperationalError):
    """A process cannot start; the message is for the operator at the terminal."""

    code = "START_FAILED"
