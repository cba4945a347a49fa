"""The secrets by which webhooks are signed."""

from base64 import b64encode
from datetime import datetime, timedelta
from secrets import token_bytes

from msgspec import structs

from app.contracts.integration import IntegrationSecret
from app.kit.ids import new_id

SECRET_BYTES = 32
MAX_SECRETS = 5


def new_secret(now: datetime) -> IntegrationSecret:
    """Make a secret, with an id by which people refer to it."""
    return IntegrationSecret(
        id=f"whs_{new_id()}",
        secret=f"whsec_{b64encode(token_bytes(SECRET_BYTES)).decode()}",
        created_at=now,
    )


def rotated(
    secrets: tuple[IntegrationSecret, ...], fresh: IntegrationSecret, now: datetime, expires_in: timedelta
) -> tuple[IntegrationSecret, ...]:
    """Return the secrets after a rotation: the new one, and older ones until they expire.

    A secret that expires earlier already does so still. Expired ones are removed, and the oldest ones of more
    than ``MAX_SECRETS``.
    """
    end = now + expires_in
    older = [
        structs.replace(each, expires_at=end if each.expires_at is None else min(end, each.expires_at))
        for each in secrets
    ]
    valid = [each for each in older if each.expires_at is not None and each.expires_at > now]
    return (fresh, *valid[: MAX_SECRETS - 1])
