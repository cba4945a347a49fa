"""Settings of tokens: the source of their keys, what a valid token has, and the names of its claims."""

import binascii
import re
from base64 import b64decode
from datetime import timedelta
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode

from config.sources import MAX_URL_CHARACTERS, is_interceptable

MIN_SECRET_BYTES = 32
MAX_ED25519_KEYS = 16
ED25519_PREFIX = "ed25519:"
_ED25519_BYTES = 32
_ASYMMETRIC = ["RS256", "ES256", "EdDSA"]
_CLAIM = re.compile(r"[^\s.,\x00-\x1f\x7f][^\s,\x00-\x1f\x7f]{0,254}(?<!\.)")
_KEY_SETTINGS = "FLOW_JWT_SECRET, FLOW_JWT_PUBLIC_KEY, FLOW_JWKS_URL and FLOW_OIDC_ISSUER"
_WEAK_POINTS = {
    # The points of small order (RFC 7748, section 7): anybody can sign for them.
    *("0" * 64, "0" * 62 + "80", "01" + "0" * 62, "01" + "0" * 60 + "80"),
    *("ec" + "f" * 60 + "7f", "ec" + "f" * 62, "ed" + "f" * 60 + "7f", "ed" + "f" * 62),
    *("ee" + "f" * 60 + "7f", "ee" + "f" * 62),
    *(f"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc{last}" for last in ("05", "85")),
    *(f"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03{last}" for last in ("7a", "fa")),
}


class TokenSettings(BaseSettings):
    """The settings of tokens, by name without the prefix."""

    jwt_secret: SecretStr | None = None
    jwt_public_key: SecretStr | None = None
    jwks_url: str | None = None
    oidc_issuer: str | None = None
    jwks_plain_http: bool = False
    jwt_algorithms: Annotated[list[str], NoDecode] = []
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    jwt_user_claim: str = "sub"
    jwt_roles_claim: str = "roles"
    jwt_scope_claim: str = "scope"
    jwt_groups_claim: str = "groups"
    jwt_service_claim: str = "service"
    ed25519_keys: Annotated[list[str], NoDecode] = []
    ed25519_max_age: timedelta | None = None

    @field_validator("jwt_user_claim", "jwt_groups_claim", "jwt_service_claim")
    @classmethod
    def _claim_path(cls, value: str) -> str:
        if not _CLAIM.fullmatch(value):
            raise ValueError(
                f"{value!r} is not the name of a claim: write a name, or a path such as realm_access.roles"
            )
        return value

    @field_validator("jwt_roles_claim", "jwt_scope_claim")
    @classmethod
    def _claim_paths(cls, value: str) -> str:
        return ",".join(cls._claim_path(part.strip()) for part in value.split(","))

    @field_validator("jwt_secret")
    @classmethod
    def _long_enough_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"must have {MIN_SECRET_BYTES} bytes or more")
        return value

    @field_validator("jwks_url", "oidc_issuer")
    @classmethod
    def _usable_address(cls, value: str | None) -> str | None:
        if value is not None:
            _check_address(value)
        return value

    @field_validator("oidc_issuer")
    @classmethod
    def _issuer_without_query(cls, value: str | None) -> str | None:
        if value is not None and "?" in value:
            raise ValueError("must be an issuer such as https://login.example.org/realms/shop, without '?'")
        return value

    @field_validator("ed25519_keys")
    @classmethod
    def _usable_keys(cls, value: list[str]) -> list[str]:
        if len(value) > MAX_ED25519_KEYS:
            raise ValueError(f"must have at most {MAX_ED25519_KEYS} keys")
        if len({read_ed25519_key(key) for key in value}) < len(value):
            raise ValueError("contains a key twice")
        return value

    @model_validator(mode="after")
    def _single_token_key(self) -> Self:
        keys = [self.jwt_secret, self.jwt_public_key, self.jwks_url, self.oidc_issuer]
        if sum(key is not None for key in keys) > 1:
            raise ValueError(f"set only one of {_KEY_SETTINGS}")
        shared = {name for name in self.jwt_algorithms if name.startswith("HS")}
        if "none" in (name.lower() for name in self.jwt_algorithms):
            raise ValueError("FLOW_JWT_ALGORITHMS: 'none' is not allowed")
        if shared and any(keys[1:]):
            raise ValueError("FLOW_JWT_ALGORITHMS: HS* requires FLOW_JWT_SECRET")
        return self

    @model_validator(mode="after")
    def _keys_over_https(self) -> Self:
        for name, url in (("FLOW_JWKS_URL", self.jwks_url), ("FLOW_OIDC_ISSUER", self.oidc_issuer)):
            if url is not None and is_interceptable(url) and not self.jwks_plain_http:
                raise ValueError(
                    f"{name}: must begin with https:// (or be on this machine): who can change the keys on "
                    "their way can sign for every user. In a network that you trust set "
                    "FLOW_JWKS_PLAIN_HTTP=true"
                )
        return self

    @model_validator(mode="after")
    def _audience_of_an_issuer(self) -> Self:
        if self.oidc_issuer is None:
            return self
        if not self.jwt_audience:
            raise ValueError(
                "FLOW_JWT_AUDIENCE: is missing: an issuer signs tokens for many programs, so set the "
                "audience ('aud') of those that are for this service"
            )
        if self.jwt_issuer is not None:
            raise ValueError("FLOW_JWT_ISSUER: unset it: FLOW_OIDC_ISSUER is the issuer of every token")
        return self

    @model_validator(mode="after")
    def _age_of_tokens_with_keys(self) -> Self:
        if self.ed25519_max_age is not None and not self.ed25519_keys:
            raise ValueError("FLOW_ED25519_MAX_AGE: requires FLOW_ED25519_KEYS")
        return self

    @model_validator(mode="after")
    def _distinct_claims(self) -> Self:
        roles, scopes = self.jwt_roles_claim.split(","), self.jwt_scope_claim.split(",")
        if not set(scopes) <= set(roles):  # application permissions of some providers are roles
            scopes = [scope for scope in scopes if scope not in roles]
        claims = [*roles, *scopes, self.jwt_user_claim, self.jwt_service_claim]
        if self.jwt_groups_claim not in roles:  # some providers call roles groups
            claims.append(self.jwt_groups_claim)
        for claim in claims:
            for other in claims:
                if claims.count(claim) > 1 or other.startswith(f"{claim}."):
                    raise ValueError(
                        "FLOW_JWT_USER_CLAIM, FLOW_JWT_ROLES_CLAIM, FLOW_JWT_SCOPE_CLAIM, "
                        "FLOW_JWT_SERVICE_CLAIM and FLOW_JWT_GROUPS_CLAIM must name different claims, none "
                        "inside another (the groups may be in a claim of the roles, and so may be one of "
                        f"several claims of scopes): {', '.join(claims)}"
                    )
        return self

    @property
    def jwt_claims(self) -> tuple[str, str, str, str, str]:
        """The names of the claims with the user, the roles, the scopes, the groups and the service."""
        return (
            self.jwt_user_claim,
            self.jwt_roles_claim,
            self.jwt_scope_claim,
            self.jwt_groups_claim,
            self.jwt_service_claim,
        )

    @property
    def algorithms(self) -> list[str]:
        """The accepted signature algorithms of tokens."""
        if self.jwt_algorithms:
            return self.jwt_algorithms
        return ["HS256"] if self.jwt_secret else _ASYMMETRIC

    @property
    def expected_issuer(self) -> str | None:
        """The issuer that every signed token must name."""
        return self.oidc_issuer or self.jwt_issuer

    @property
    def has_jwt_keys(self) -> bool:
        """True if signed tokens (JWT) can be verified."""
        return any((self.jwt_secret, self.jwt_public_key, self.jwks_url, self.oidc_issuer))

    @property
    def has_token_keys(self) -> bool:
        """True if tokens of any kind can be verified."""
        return self.has_jwt_keys or bool(self.ed25519_keys)


def read_ed25519_key(text: str) -> bytes:
    """Return the bytes of a public key such as ``ed25519:6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=``.

    Raises:
        ValueError: The text has another form, or the key is one that anybody can sign for.
    """
    form = f"must be public keys such as {ED25519_PREFIX}<44 characters of base64>, separated by commas"
    if not text.startswith(ED25519_PREFIX):
        raise ValueError(form)
    try:
        key = b64decode(text.removeprefix(ED25519_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(form) from None
    if len(key) != _ED25519_BYTES:
        raise ValueError(form)
    if key.hex() in _WEAK_POINTS:
        raise ValueError("contains a key for which anybody can sign")
    return key


def split_list(value: Any) -> Any:
    """Split a text at its commas; return any other value as it is."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _check_address(url: str) -> None:
    """Raise ValueError unless keys can be read from a URL."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is an invalid URL") from None
    if len(url) > MAX_URL_CHARACTERS or not re.fullmatch(r"[\x21-\x7e]+", url):
        raise ValueError(f"must be a URL of at most {MAX_URL_CHARACTERS} ASCII characters, without spaces")
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("must be a URL such as https://login.example.org/realms/shop")
    if "@" in parts.netloc:
        raise ValueError("must be a URL without user and password: keys for checking tokens are public")
    if "#" in url:
        raise ValueError("must be a URL without the part after '#'")
