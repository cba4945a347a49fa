"""The port of the secrets that all workers share."""

from typing import Protocol


class SecretStore(Protocol):
    """Secrets that all workers share."""

    async def secret(self, name: str) -> bytes:
        """32 bytes, made when they are asked for first."""
