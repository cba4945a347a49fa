"""Authenticated callers, and trusted ones inside the process."""

from collections.abc import Collection

from msgspec import Struct

ADMIN = "flow:admin"
"""The scope of administrators."""

SERVICE = "flow:service"
"""The scope of services, which act for other users."""


class Caller(Struct, frozen=True):
    """An authenticated party.

    ``expires_at`` is the last moment of its token, in seconds since 1970. ``trusted`` is true for code in
    this process alone (``trusted_caller``); no token sets it.
    """

    user_id: str
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    expires_at: float = 0.0
    trusted: bool = False

    def has_a_role(self, wanted: Collection[str] | None) -> bool:
        """Return true if the caller has one of the ``wanted`` roles.

        ``None`` means that no role is required. Administrators pass every check of roles.
        """
        return wanted is None or ADMIN in self.scopes or not self.roles.isdisjoint(wanted)


def trusted_caller(user_id: str) -> Caller:
    """Create a trusted in-process caller acting for ``user_id``. It passes all checks of roles and scopes."""
    return Caller(user_id, scopes=frozenset({ADMIN}), trusted=True)
