"""The policy: the scopes of tokens, and the permission that each route and each socket event requires.

This module decides by the caller alone. Rules that depend on a state, a definition or a registration are
listed in docs/architecture.md, and docs/reference/access.md shows all of them to users.
"""

from collections.abc import Iterable, Mapping
from enum import Enum

from msgspec import Struct, structs

from app.contracts.callers import ADMIN, READ, SCOPE_PREFIX, SERVICE, USE, Caller
from app.contracts.errors import InsufficientPermissionsError, service_limit_error
from app.contracts.identifiers import require_ids

__all__ = [
    "ADMIN",
    "READ",
    "SCOPES",
    "SERVICE",
    "USE",
    "Access",
    "Permission",
    "as_user",
    "granted_scopes",
    "named_user",
    "require_access",
    "require_acting_for",
    "require_administrator",
    "require_manager",
    "require_reading_for",
    "require_searching",
]

SCOPES = (USE, SERVICE, READ, ADMIN)
"""The scopes that this service knows."""


class Permission(Enum):
    """The permission that a request requires."""

    PUBLIC = "public"
    """No token is required."""
    CONNECT = "connect"
    """Connect a socket, and end what it follows."""
    READ_FLOWS = "read flows"
    """Read or check definitions, those that the caller may see."""
    READ_STATES = "read states"
    """Read states of the caller's own, or of the user that the request names."""
    USE = "use"
    """Change a state of the caller's own, or of the user that the request names."""
    SUPPORT = "support"
    """Read states of all users."""
    SEARCH = "search"
    """Find states of all users by their fields."""
    SERVICE = "service"
    """Administer the registered service that the request names."""
    SERVICE_SUPPORT = "service support"
    """Read the failures of registered services, without payloads."""
    ADMIN = "admin"
    """Administer the service."""


GRANTED_BY: Mapping[Permission, tuple[str, ...]] = {
    Permission.PUBLIC: (),
    Permission.CONNECT: (USE, READ, SERVICE, ADMIN),
    Permission.READ_FLOWS: (USE, READ, SERVICE, ADMIN),
    Permission.READ_STATES: (USE, READ, SERVICE, ADMIN),
    Permission.USE: (USE, SERVICE, ADMIN),
    Permission.SUPPORT: (READ, ADMIN),
    Permission.SEARCH: (READ, SERVICE, ADMIN),
    Permission.SERVICE: (ADMIN,),
    Permission.SERVICE_SUPPORT: (READ, ADMIN),
    Permission.ADMIN: (ADMIN,),
}
"""The scopes that grant each permission; a token needs one of them."""

_FOR_SERVICES = (Permission.SERVICE, Permission.SERVICE_SUPPORT)
_NOT_FOR_SERVICES = (Permission.PUBLIC, Permission.SUPPORT, Permission.ADMIN)


class Access(Struct, frozen=True):
    """The access to a route or a socket event, which its declaration must state.

    Attributes:
        permission: The permission that a token must grant.
        for_services: Credentials of an integration are accepted, within their limits (ServiceAccess);
            everything else is refused to them.
    """

    permission: Permission
    for_services: bool = False

    def __post_init__(self) -> None:
        """Refuse combinations that contradict themselves."""
        if self.permission in (_NOT_FOR_SERVICES if self.for_services else _FOR_SERVICES):
            raise ValueError(f"{self.permission.value!r} with for_services={self.for_services}")

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes of which a token needs one."""
        return GRANTED_BY[self.permission]

    @property
    def is_public(self) -> bool:
        """True if no token is required."""
        return self.permission is Permission.PUBLIC


def granted_scopes(words: Iterable[str]) -> frozenset[str]:
    """Return the scopes of a token that names ``words``: ``flow:use`` too if none of them is of this service.

    A misspelt scope of this service grants nothing, and takes ``flow:use`` away.
    """
    scopes = frozenset(words)
    return scopes if any(scope.startswith(SCOPE_PREFIX) for scope in scopes) else scopes | {USE}


def require_access(access: Access, caller: Caller) -> None:
    """Require that a caller may send a request with this access.

    Whose state, which flow or which service it may be about is decided by those rules that know them.

    Raises:
        InsufficientPermissionsError: It may not.
    """
    if caller.service:
        if not access.for_services or SERVICE not in caller.scopes:
            raise service_limit_error(caller.service)
        return
    scopes = access.scopes
    if access.is_public or caller.trusted or not caller.scopes.isdisjoint(scopes):
        return
    raise _no_permission(*scopes, or_service=access.permission in _FOR_SERVICES)


def named_user(caller: Caller, user_id: str | None) -> str:
    """Return the user whose states a request reads: the caller, or the one that it names.

    Raises:
        InsufficientPermissionsError: It is another user, whose states the caller may not read.
    """
    if user_id is None or user_id == caller.user_id:
        return caller.user_id
    require_ids({"userId": user_id})
    if not caller.service:
        require_reading_for(caller, user_id)
    return user_id


def require_acting_for(caller: Caller, user_id: str) -> None:
    """Raise InsufficientPermissionsError unless the caller may act for a user, be it as that user."""
    if caller.service:
        raise service_limit_error(caller.service)
    if not caller.acts_for(user_id):
        raise _no_permission(USE) if user_id == caller.user_id else _foreign_user()


def require_reading_for(caller: Caller, user_id: str) -> None:
    """Raise InsufficientPermissionsError unless the caller may read all states of a user."""
    if caller.service:
        raise service_limit_error(caller.service)
    if not caller.may_read(user_id):
        raise _foreign_user()


def require_searching(caller: Caller) -> None:
    """Raise InsufficientPermissionsError unless the caller may search the states of all users.

    The states and the fields that it finds them by are those that it may see.
    """
    if not (caller.reads_all or caller.acts_for_all):
        raise _no_permission(*GRANTED_BY[Permission.SEARCH])


def as_user(caller: Caller) -> Caller:
    """Return the caller as its changes are judged: the right to read all states gives none to change them.

    Raises:
        InsufficientPermissionsError: It may not change any state.
    """
    if not caller.may_use:
        raise _no_permission(USE)
    if READ not in caller.scopes:
        return caller
    return structs.replace(caller, scopes=caller.scopes - {READ})


def require_administrator(caller: Caller) -> None:
    """Raise InsufficientPermissionsError unless the caller is an administrator."""
    if caller.service:
        raise service_limit_error(caller.service)
    if not caller.is_administrator:
        raise _no_permission(ADMIN)


def require_manager(caller: Caller, alias: str) -> None:
    """Require an administrator, or the registered service itself.

    The refusal is the same whether or not there is such a service.

    Raises:
        InsufficientPermissionsError: The caller is neither.
    """
    is_itself = bool(alias) and caller.service == alias and SERVICE in caller.scopes
    if caller.is_administrator or is_itself:
        return
    if caller.service:
        raise service_limit_error(caller.service)
    raise _no_permission(ADMIN, or_service=True)


def _no_permission(*scopes: str, or_service: bool = False) -> InsufficientPermissionsError:
    credential = ", or the credential of the service itself" if or_service else ""
    return InsufficientPermissionsError(
        f"This needs a token with the scope {' or '.join(scopes)}{credential}", scope=scopes[0]
    )


def _foreign_user() -> InsufficientPermissionsError:
    return InsufficientPermissionsError(
        f"Acting for another user needs a token with the scope {SERVICE} or {ADMIN}; "
        f"reading without payloads, one with {READ}",
        scope=SERVICE,
    )
