"""Processes: the embedded servers, the workers, and that none outlives its parent."""


class StartError(Exception):
    """A process cannot start; the message is for the person at the terminal."""
