"""The claims of a token that name the caller, its roles, its groups and its scopes."""

from typing import Any

from msgspec import Struct

from app.auth.policy import granted_scopes
from app.contracts.callers import ADMIN, READ, SERVICE, SERVICE_USER, Caller, service_caller
from app.contracts.errors import AuthenticationRequiredError
from app.contracts.identifiers import is_id
from app.contracts.integration import is_alias


class ClaimNames(Struct, frozen=True):
    """The names of the claims; ``realm_access.roles`` is a claim of that name, or a path.

    ``roles`` and ``scope`` may be several, separated by commas.
    """

    user: str = "sub"
    roles: str = "roles"
    scope: str = "scope"
    groups: str = "groups"
    service: str = "service"

    def caller(self, claims: dict[str, Any], expires_at: float) -> Caller:
        """Read the caller from verified claims.

        Roles are a text, which is one role, or a list of texts, and so are groups; scopes are a text of
        words, or a list of them. A claim of groups in another form names none, and a group that no state can
        name is left out: tokens of many providers have a claim by this name that is not for this service.
        A token without any scope of this service has ``flow:use``; others have their scopes alone. A claim of
        a service limits tokens that act for other users to this service, also those of administrators.

        Raises:
            AuthenticationRequiredError: A claim is missing or malformed.
        """
        user = find_claim(claims, self.user)
        if user is None:
            raise AuthenticationRequiredError(f"The token has no '{self.user}' claim", reason="claim")
        if not is_id(user):
            raise AuthenticationRequiredError(f"The token's '{self.user}' cannot name a user", reason="claim")
        scopes = granted_scopes(
            word for scope in _texts(self.scope, claims) for word in scope.split(" ") if word
        )
        roles = frozenset(_texts(self.roles, claims))
        groups = frozenset(filter(is_id, _texts_in(find_claim(claims, self.groups)) or ()))
        alias = find_claim(claims, self.service)
        if alias is not None and scopes & {ADMIN, SERVICE}:
            if not is_alias(alias):  # a token that is meant to be limited must not be unlimited
                fault = f"The token's '{self.service}' cannot name a service"
                raise AuthenticationRequiredError(fault, reason="claim")
            return service_caller(alias, roles=roles, groups=groups, expires_at=expires_at)
        if alias is not None and READ in scopes:
            fault = f"The scope {READ} cannot be limited to a service; leave out '{self.service}'"
            raise AuthenticationRequiredError(fault, reason="claim")
        if user.startswith(SERVICE_USER):  # it would have the roles of the service, and act under its name
            fault = f"The token's '{self.user}' is the id of a service, to which the token is not limited"
            raise AuthenticationRequiredError(fault, reason="claim")
        return Caller(user, roles=roles, scopes=scopes, expires_at=expires_at, groups=groups)


def find_claim(claims: Any, name: str) -> Any:
    """Return the claim with this name or at this path; None if there is none.

    The parts of a path may contain dots themselves, as ``my.app`` does in ``resource_access.my.app.roles``.
    """
    if not isinstance(claims, dict):
        return None
    if name in claims:
        return claims[name]
    for at, character in enumerate(name):
        if character == "." and name[:at] in claims:
            found = find_claim(claims[name[:at]], name[at + 1 :])
            if found is not None:
                return found
    return None


def put_claim(claims: dict[str, Any], name: str, value: Any) -> None:
    """Add a claim at its path, or at the first of several, where ``find_claim`` reads it."""
    *around, last = name.split(",", maxsplit=1)[0].split(".")
    for part in around:
        claims = claims.setdefault(part, {})
    claims[last] = value


def _texts(names: str, claims: dict[str, Any]) -> list[str]:
    found = []
    for name in names.split(","):
        texts = _texts_in(find_claim(claims, name))
        if texts is None:
            raise AuthenticationRequiredError(
                f"The token's '{name}' claim must be a text or a list of texts", reason="claim"
            )
        found += texts
    return found


def _texts_in(value: Any) -> list[str] | None:
    """Read a text or a list of texts; numbers count as their texts. None for any other value."""
    members = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(member, str | int) and not isinstance(member, bool) for member in members):
        return None
    return [str(member) for member in members if member != ""]
