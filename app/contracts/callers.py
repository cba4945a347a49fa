"""Authenticated callers, and trusted ones inside the process."""

from collections.abc import Collection

from msgspec import Struct

ADMIN = "flow:admin"
"""The scope of administrators."""

SERVICE = "flow:service"
"""The scope of services, which act for other users."""

READ = "flow:read"
"""The scope of support staff, who read states of all users, with masked payloads."""

USE = "flow:use"
"""The scope of users, who have states of their own. A token that names no scope of this service has it."""


class Caller(Struct, frozen=True):
    """An authenticated party.

    ``groups`` are those of its token. ``participates``: it acts on another user's state, by the roles that it
    has on that state alone (app.flow.people).

    ``service`` is the alias of an integration whose credential this is ("": none). It reads states of all
    users, but only in flows with a step of that integration, and runs only transitions of those steps; it
    acts for no user. ``credential`` is the id of its API key, with which a connection that outlives
    ``expires_at`` is renewed ("": it cannot be).

    ``expires_at`` is the last moment of its token, in seconds since 1970. ``trusted`` is true for code in
    this process alone (``trusted_caller``); no token sets it.
    """

    user_id: str
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    expires_at: float = 0.0
    trusted: bool = False
    groups: frozenset[str] = frozenset()
    participates: bool = False
    service: str = ""
    credential: str = ""

    def acts_for(self, user_id: str) -> bool:
        """Return true if the caller may act for a user: as that user, a service or an administrator.

        The credential of an integration acts for nobody: its own rules are in ServiceAccess.
        """
        if self.service:
            return False
        return self.user_id == user_id or self.trusted or bool(self.scopes & {ADMIN, SERVICE})

    def reads_others(self, user_id: str) -> bool:
        """Return true if the caller reads states of any user, and is not that user."""
        of_others = self.trusted or bool(self.scopes & {ADMIN, SERVICE, READ})
        return of_others and not self.service and self.user_id != user_id

    def has_a_role(self, wanted: Collection[str] | None) -> bool:
        """Return true if the caller has one of the ``wanted`` roles.

        ``None`` means that no role is required of those who may act on a state of their own or for its owner.
        Administrators pass every check of roles.
        """
        if wanted is None:
            return not self.participates
        return ADMIN in self.scopes or not self.roles.isdisjoint(wanted)


def service_caller(
    alias: str,
    *,
    roles: frozenset[str] = frozenset(),
    groups: frozenset[str] = frozenset(),
    expires_at: float = 0.0,
    credential: str = "",
) -> Caller:
    """Create the caller of a credential that is limited to one integration.

    Records name it ``service:<alias>``, and so do participants of a state who give it a role.
    """
    return Caller(
        f"service:{alias}",
        roles=roles,
        scopes=frozenset({SERVICE}),
        expires_at=expires_at,
        groups=groups,
        service=alias,
        credential=credential,
    )


def trusted_caller(user_id: str) -> Caller:
    """Create a trusted in-process caller acting for ``user_id``. It passes all checks of roles and scopes."""
    return Caller(user_id, scopes=frozenset({ADMIN}), trusted=True)
