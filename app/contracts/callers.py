"""Authenticated callers, and trusted ones inside the process."""

from collections.abc import Collection
from typing import Literal

from msgspec import Struct

ADMIN = "flow:admin"
"""The scope of administrators."""

SERVICE = "flow:service"
"""The scope of services, which act for other users."""

READ = "flow:read"
"""The scope of support staff, who read states of all users, with masked payloads."""

USE = "flow:use"
"""The scope of users, who have states of their own. A token without any scope of this service has it."""

SCOPE_PREFIX = "flow:"
"""Begins the scopes of this service, those included that it does not know."""


_FOR_ALL = frozenset({ADMIN, SERVICE})

Purpose = Literal["read", "list", "follow", "watch"]
"""The reason why a caller is shown a state: it reads that one or its history, lists states, follows it, or
watches all states of a flow."""


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
    scopes: frozenset[str] = frozenset({USE})
    expires_at: float = 0.0
    trusted: bool = False
    groups: frozenset[str] = frozenset()
    participates: bool = False
    service: str = ""
    credential: str = ""

    @property
    def is_administrator(self) -> bool:
        """True for administrators and trusted code, which pass every check of roles."""
        return self.trusted or (ADMIN in self.scopes and not self.service)

    @property
    def acts_for_all(self) -> bool:
        """True if the caller acts on states of all users: an administrator, a service or trusted code.

        The credential of an integration is among them, but only where ServiceAccess admits it.
        """
        return self.trusted or not self.scopes.isdisjoint(_FOR_ALL)

    @property
    def reads_all(self) -> bool:
        """True if the caller reads the states of all users, and sees every flow, as support staff does."""
        return self.is_administrator or (READ in self.scopes and not self.service)

    @property
    def may_use(self) -> bool:
        """True if the caller may change states at all; administrators and services may."""
        return self.acts_for_all or USE in self.scopes

    def acts_for(self, user_id: str) -> bool:
        """Return true if the caller may act for a user: as that user, a service or an administrator.

        The credential of an integration acts for nobody: its own rules are in ServiceAccess.
        """
        if self.service:
            return False
        return self.acts_for_all or (self.user_id == user_id and self.may_use)

    def may_read(self, user_id: str) -> bool:
        """Return true if the caller may read all states of a user, be it as that user.

        Participants may read single states of other users (app.flow.people), and the credential of an
        integration those in flows with its steps (ServiceAccess).
        """
        if self.service:
            return False
        return self.user_id == user_id or self.acts_for_all or self.reads_all

    def reads_others(self, user_id: str) -> bool:
        """Return true if the caller reads states of any user, and is not that user."""
        of_others = self.acts_for_all or self.reads_all
        return of_others and not self.service and self.user_id != user_id

    def has_a_role(self, wanted: Collection[str] | None) -> bool:
        """Return true if the caller has one of the ``wanted`` roles.

        ``None`` means that no role is required of those who may act on a state of their own or for its owner.
        Administrators pass every check of roles.
        """
        if wanted is None:
            return not self.participates
        return self.is_administrator or not self.roles.isdisjoint(wanted)


SERVICE_USER = "service:"
"""Begins the user ids of services in records and among participants, which no person may have."""


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
        f"{SERVICE_USER}{alias}",
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
