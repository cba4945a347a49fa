"""The problem of the embedded database, for the readiness check of every worker."""


class DatabaseStatus:
    """The status, set in the process that runs the servers and passed on to its workers."""

    def __init__(self) -> None:
        self.problem: str | None = None
        """A phrase without paths, because everybody can read it."""


STATUS = DatabaseStatus()
"""The status in this process."""

FULL = "the disk of the embedded database is full"
NOT_WRITING = "the embedded database does not answer writes"
RESTARTING = "the embedded database is restarting"
