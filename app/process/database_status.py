"""The problem of the embedded database, for the readiness of every worker."""


class DatabaseStatus:
    """Known to the process that runs the servers, which passes it on to its workers."""

    def __init__(self) -> None:
        self.problem: str | None = None
        """A phrase that names no path: it is shown to everybody."""


STATUS = DatabaseStatus()
"""That of this process."""

FULL = "the disk of the embedded database is full"
NOT_WRITING = "the embedded database does not answer writes"
RESTARTING = "the embedded database is started again"
