"""The port of the secrets that all workers share."""

from typing import Protocol


class SecretStore(Protocol):
    """Secrets that all workers share."""

    async def secret(self, name: str) -> bytes:
        """Return a secret of 32 bytes, created at the first request."""
