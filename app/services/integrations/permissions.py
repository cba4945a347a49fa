"""The permissions of callers on registered services."""

from app.contracts.callers import ADMIN, SERVICE, Caller
from app.contracts.errors import InsufficientPermissionsError, service_limit_error


def is_administrator(caller: Caller) -> bool:
    """Return whether a caller may administer all services."""
    return caller.trusted or (ADMIN in caller.scopes and not caller.service)


def require_manager(caller: Caller, alias: str) -> None:
    """Require an administrator, or the service itself.

    The refusal is the same whether or not there is such a service.

    Raises:
        InsufficientPermissionsError: The caller is neither.
    """
    if is_administrator(caller) or (caller.service == alias and alias and SERVICE in caller.scopes):
        return
    if caller.service:
        raise service_limit_error(caller.service)
    raise InsufficientPermissionsError(
        f"This needs a token with the scope {ADMIN}, or the credential of the service itself", scope=ADMIN
    )


def require_administrator(caller: Caller) -> None:
    """Require an administrator. Raises InsufficientPermissionsError."""
    if caller.service:
        raise service_limit_error(caller.service)
    if not is_administrator(caller):
        raise InsufficientPermissionsError(f"This needs a token with the scope {ADMIN}", scope=ADMIN)
