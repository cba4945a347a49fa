"""Processes: the embedded servers, the workers, and that none outlives its parent."""

from app.contracts.errors import OperationalError


class StartError(OperationalError):
    """A process cannot start; the message is for the person at the terminal."""

    code = "START_FAILED"
