"""The JSON shapes of API keys."""

from msgspec import UNSET, Struct, UnsetType

from app.contracts.integration import ApiKey
from app.contracts.wire.times import Time, iso


class ApiKeyView(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """An API key of a service, without the key itself.

    ``expiresAt``, ``revokedAt`` and ``lastUsedAt`` (to within about a minute) are absent if there is none.
    """

    id: str
    name: str
    created_at: Time
    created_by: str
    expires_at: Time | UnsetType = UNSET
    revoked_at: Time | UnsetType = UNSET
    last_used_at: Time | UnsetType = UNSET


class NewApiKeyView(ApiKeyView, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A new API key. ``key`` is the key itself, which no later answer has."""

    key: str


class ApiKeyList(Struct, frozen=True, rename="camel"):
    """The API keys of a service, the oldest first."""

    items: list[ApiKeyView]


def api_key_view(key: ApiKey) -> ApiKeyView:
    """Return the view of a key."""
    return ApiKeyView(
        id=key.id,
        name=key.name,
        created_at=iso(key.created_at),
        created_by=key.created_by,
        expires_at=UNSET if key.expires_at is UNSET else iso(key.expires_at),
        revoked_at=UNSET if key.revoked_at is UNSET else iso(key.revoked_at),
        last_used_at=UNSET if key.last_used_at is UNSET else iso(key.last_used_at),
    )


def new_api_key_view(key: ApiKey, text: str) -> NewApiKeyView:
    """Return the view of a new key, with the key itself."""
    shown = api_key_view(key)
    return NewApiKeyView(
        id=shown.id,
        name=shown.name,
        created_at=shown.created_at,
        created_by=shown.created_by,
        expires_at=shown.expires_at,
        key=text,
    )
