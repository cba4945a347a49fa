"""The settings: read from ``FLOW_*`` and ``.env``, and checked before anything starts."""

import difflib
import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from app.kit.durations import DURATION_RULE, MAX_DURATION, iso_duration, parse_duration
from app.kit.origins import normalize_origin
from config.encryption import EncryptionSettings
from config.limits import LimitSettings
from config.masking import mask_source, mask_url
from config.networks import PrivateAddresses, parse_private_addresses
from config.sources import SourceSetting, auth_header, check_auth_use, check_remote, is_remote
from config.tokens import TokenSettings, split_list

PREFIX = "FLOW_"
SHIPPED_FLOWS = Path(__file__).parent / "flows"
_EXAMPLES = "file:config/flows"
"""A folder below the working directory; if there is none, the flows that ship with the package."""
_OTHER_VARIABLES = {"FLOW_SKIP_WEB_BUILD", "FLOW_EMBEDDED_DATABASE"}
"""Variables of the build backend and of the embedded servers."""


class SettingsError(Exception):
    """Invalid settings; the message has one line for each fault."""


CommaSeparated = Annotated[list[str], NoDecode]


def _default_definitions(known: dict[str, Any]) -> list[str]:
    """Return the default sources. Example flows are not for a production database."""
    return ["database", _EXAMPLES] if known.get("mongo_url") is None else ["database"]


class Settings(EncryptionSettings, LimitSettings, TokenSettings):
    """All settings, by name without the prefix."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True)

    mongo_url: SecretStr | None = None
    mongo_database: str = Field("server_flow", pattern=r"^[A-Za-z0-9_-]{1,38}$")
    redis_url: SecretStr | None = None
    data_dir: Path = Path(".flow-data")
    definitions: CommaSeparated = Field(default_factory=_default_definitions)
    definitions_auth: SecretStr | None = None
    definitions_private_redirects: bool = False
    definition_cache_ms: int = Field(300_000, ge=0, le=86_400_000)
    state_ttl: timedelta | None = None
    history_retention: timedelta | None = None
    services_private_addresses: str = "false"
    services_store_answers: bool = False
    ready_strict: bool = False
    socket_transports: CommaSeparated = Field(default_factory=lambda: ["websocket"])
    cors_origins: CommaSeparated = Field(default_factory=list)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"
    log_users: Literal["hashed", "plain"] = "hashed"

    @field_validator(
        *("definitions", "jwt_algorithms", "ed25519_keys", "socket_transports", "cors_origins"), mode="before"
    )
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        return split_list(value)

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("state_ttl", "history_retention", "ed25519_max_age", mode="before")
    @classmethod
    def _read_duration(cls, value: Any) -> Any:
        if isinstance(value, str):
            return parse_duration(value.strip())
        if value is None or isinstance(value, timedelta):
            return value
        raise ValueError(f"{value!r} is not text: {DURATION_RULE}")

    @field_validator("state_ttl", "history_retention", "ed25519_max_age")
    @classmethod
    def _bounded_duration(cls, value: timedelta | None) -> timedelta | None:
        if value is not None and value <= timedelta(0):
            raise ValueError("must be longer than zero")
        if value is not None and value > MAX_DURATION:
            raise ValueError(f"must be at most {iso_duration(MAX_DURATION)}, 100 years")
        return value

    @field_validator("socket_transports")
    @classmethod
    def _known_transports(cls, value: list[str]) -> list[str]:
        if not value or set(value) - {"websocket", "polling"}:
            raise ValueError("must be websocket, polling, or both")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _normalized_origins(cls, value: list[str]) -> list[str]:
        return ["*" if origin == "*" else normalize_origin(origin) for origin in value]

    @field_validator("definitions")
    @classmethod
    def _known_sources(cls, value: list[str], info: ValidationInfo) -> list[str]:
        for source in value:
            if is_remote(source):
                check_remote(source)
            elif source != "database" and (not source.startswith("file:") or source == "file:"):
                given = "one with '@' or '://'" if "@" in source or "://" in source else repr(source)
                raise ValueError(f"must be database, file:PATH or https://HOST/PATH, not {given}")
        if len(set(value)) < len(value):
            raise ValueError("contains a source twice")
        if info.data.get("mongo_url") is None and not Path(_EXAMPLES.removeprefix("file:")).exists():
            return [f"file:{SHIPPED_FLOWS}" if source == _EXAMPLES else source for source in value]
        return value

    @field_validator("services_private_addresses")
    @classmethod
    def _known_networks(cls, value: str) -> str:
        return str(parse_private_addresses(value))

    @field_validator("definitions_auth")
    @classmethod
    def _usable_credentials(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            auth_header(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _both_servers_or_none(self) -> Self:
        if (self.mongo_url is None) != (self.redis_url is None):
            missing = "FLOW_REDIS_URL" if self.redis_url is None else "FLOW_MONGO_URL"
            raise ValueError(f"{missing} is missing: set both, or none for the embedded servers")
        return self

    @model_validator(mode="after")
    def _keys_if_encryption_is_required(self) -> Self:
        if self.encryption_required and self.encryption_keys is None and not self.embedded:
            raise ValueError("FLOW_ENCRYPTION_REQUIRED needs FLOW_ENCRYPTION_KEYS")
        return self

    @model_validator(mode="after")
    def _credentials_only_for_one_host(self) -> Self:
        if self.definitions_auth is not None:
            try:
                check_auth_use([source for source in self.definitions if is_remote(source)])
            except ValueError as refusal:
                raise ValueError(f"FLOW_DEFINITIONS_AUTH: {refusal}") from None
        return self

    @property
    def embedded(self) -> bool:
        """True if this process starts its own servers."""
        return self.mongo_url is None

    @property
    def private_addresses(self) -> PrivateAddresses:
        """The addresses outside the public network that webhooks may be sent to."""
        return parse_private_addresses(self.services_private_addresses)

    @property
    def max_message_bytes(self) -> int:
        """Limit of a Socket.IO message, high enough to receive a payload above its limit and refuse it."""
        return max(1_048_576, 2 * self.max_payload_bytes)

    def require_token_check(self) -> None:
        """Raise SettingsError unless tokens can be verified: there is no built-in secret."""
        if not self.has_token_keys:
            raise SettingsError(
                "FLOW_JWT_SECRET: is missing (or FLOW_JWT_PUBLIC_KEY, FLOW_JWKS_URL, FLOW_OIDC_ISSUER or "
                "FLOW_ED25519_KEYS); create one with: "
                "python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
            )

    def definition_sources(self) -> list[SourceSetting]:
        """Return the sources beside the database, in order of precedence."""
        found = []
        overrides = True
        for source in self.definitions:
            if source == "database":
                overrides = False
            elif is_remote(source):
                found.append(SourceSetting("remote", source, overrides))
            else:
                path = Path(source.removeprefix("file:"))
                found.append(SourceSetting("file", str(path), overrides))
        return found

    def masked(self) -> dict[str, str]:
        """Return the effective settings by their full names, with secrets masked."""
        shown = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name.endswith("_url") and value is not None:
                value = mask_url(value.get_secret_value() if isinstance(value, SecretStr) else value)
            elif isinstance(value, timedelta):
                value = iso_duration(value)
            elif isinstance(value, list):
                value = ",".join(mask_source(part) for part in value)
            elif isinstance(value, str) and "://" in value:
                value = mask_url(value)
            shown[f"{PREFIX}{name.upper()}"] = "" if value is None else str(value)
        return shown


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment and ``.env``. Raises SettingsError with every fault."""
    faults = _unknown_names()
    try:
        settings = Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as refusal:
        for error in refusal.errors():
            if error["type"] == "default_factory_not_called":  # it needs the settings with the faults
                continue
            name = f"{PREFIX}{str(error['loc'][0]).upper()}: " if error["loc"] else ""
            faults.append(f"{name}{error['msg'].removeprefix('Value error, ')}")
    if faults:
        raise SettingsError("\n".join(faults))
    return settings


def _unknown_names() -> list[str]:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    faults = []
    for name in sorted({*os.environ, *dotenv_values(".env")}):
        if not name.startswith(PREFIX) or name in known | _OTHER_VARIABLES or name.startswith("FLOW_TEST_"):
            continue
        close = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        faults.append(f"{name}: there is no such setting{hint}")
    return faults
