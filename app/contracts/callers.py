"""Authenticated callers, and trusted ones inside the process."""

from collections.abc import Collection

from msgspec import Struct

ADMIN = "flow:admin"

SERVICE = "flow:service"


class Caller(Struct, frozen=True):
    """An authenticated party. ``expires_at`` is the last moment of its token, in seconds since 1970."""

    user_id: str
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    expires_at: float = 0.0

    def has_a_role(self, wanted: Collection[str] | None) -> bool:
        """True if the caller has one of the ``wanted`` roles. None: no role is asked for. Of an
        administrator none is."""
        return wanted is None or ADMIN in self.scopes or not self.roles.isdisjoint(wanted)


def trusted_caller(user_id: str) -> Caller:
    """A Python program or the service itself, in the place of a user: of it no roles are asked."""
    return Caller(user_id, scopes=frozenset({ADMIN}))
