"""Scopes and roles: the permissions of a caller."""

from app.contracts.callers import ADMIN, SERVICE, Caller
from app.contracts.errors import InsufficientPermissionsError, service_limit_error
from app.contracts.identifiers import require_ids

__all__ = ["ADMIN", "SCOPES", "SERVICE", "acting_for", "require_scope"]

SCOPES = (ADMIN, SERVICE)
"""The scopes that this service knows."""


def require_scope(caller: Caller, scope: str) -> None:
    """Raise InsufficientPermissionsError unless the caller's token has ``scope``."""
    if caller.service and scope != SERVICE:
        raise service_limit_error(caller.service)
    if scope not in caller.scopes:
        raise InsufficientPermissionsError(f"This needs a token with the scope {scope}", scope=scope)


def acting_for(caller: Caller, user_id: str | None) -> str:
    """Return the user whose state a command is about.

    Raises:
        InsufficientPermissionsError: It is another user than the caller, which is neither a service nor an
            administrator.
    """
    if user_id is None or user_id == caller.user_id:
        return caller.user_id
    require_ids({"userId": user_id})
    if not caller.scopes & {ADMIN, SERVICE}:
        raise InsufficientPermissionsError(
            f"Acting for another user needs a token with the scope {SERVICE} or {ADMIN}", scope=SERVICE
        )
    return user_id
