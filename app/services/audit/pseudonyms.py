"""Pseudonyms of users in the audit log.

Entries are permanent, so they never have the ids of the users whose data an act concerns. A keyed hash
stands for an id: who has the secret of the database finds the entries of a user, and nobody finds the user of
an entry without trying ids. An erasure has another pseudonym, with a salt that only its receipt has.
"""

import hmac
from hashlib import sha256

from app.contracts.people import pseudonym
from app.contracts.ports.secrets import SecretStore

SECRET_NAME = "audit"  # noqa: S105 - the name of a secret
DIGITS = 32


def erased_user(salt: str, user_id: str) -> str:
    """Return the target of an erasure."""
    return f"user:{pseudonym(salt, user_id).removeprefix('person:')}"


class AuditPseudonyms:
    """Keyed pseudonyms. Every method raises StoreUnavailableError."""

    def __init__(self, secrets: SecretStore) -> None:
        self._secrets = secrets
        self._key: bytes | None = None

    async def user(self, user_id: str) -> str:
        """Return the pseudonym of a user."""
        return f"user:{await self._keyed(user_id)}"

    async def entity(self, user_id: str, entity_id: str) -> str:
        """Return the pseudonym of an entity of a user, as an entity's id may be personal."""
        return f"entity:{await self._keyed(user_id, entity_id)}"

    async def _keyed(self, *names: str) -> str:
        if self._key is None:
            self._key = await self._secrets.secret(SECRET_NAME)
        text = "\0".join(f"{len(name)}:{name}" for name in names)
        return hmac.new(self._key, text.encode(), sha256).hexdigest()[:DIGITS]
