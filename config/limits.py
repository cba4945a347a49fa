"""The settings that bound what clients may send, how often, and on how many connections."""

import ipaddress
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode

from config.networks import MAX_NETWORKS, Network, parse_network

MAX_RATE = 10_000_000
PROXIES_RULE = "must be networks of proxies such as 10.0.0.0/8,fd00::/8"


class LimitSettings(BaseSettings):
    """The limits of clients; ``docs/reference/limits.md`` has them all. No value means "off"."""

    max_payload_bytes: int = Field(65_536, ge=256, le=1_048_576)
    max_payload_depth: int = Field(32, ge=1, le=32)
    max_payload_fields: int = Field(10_000, ge=1, le=1_000_000)
    max_definition_bytes: int = Field(524_288, ge=1_024, le=1_048_576)
    user_requests_per_minute: int = Field(6_000, ge=1, le=MAX_RATE)
    service_requests_per_minute: int = Field(120_000, ge=1, le=MAX_RATE)
    address_requests_per_minute: int = Field(60_000, ge=1, le=MAX_RATE)
    address_failures_per_minute: int = Field(300, ge=1, le=MAX_RATE)
    user_changes_per_minute: int = Field(1_200, ge=1, le=1_000_000)
    max_connections: int = Field(10_000, ge=16, le=1_000_000)
    user_connections: int = Field(100, ge=1, le=1_000_000)
    address_connections: int = Field(2_000, ge=1, le=1_000_000)
    trusted_proxies: Annotated[list[str], NoDecode] = Field(default_factory=list)

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _read_networks(cls, value: Any) -> Any:
        words = (
            [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value
        )
        if len(words) > MAX_NETWORKS:
            raise ValueError(f"must name at most {MAX_NETWORKS} networks")
        return [str(parse_network(word, PROXIES_RULE)) for word in words]

    @property
    def trusted_networks(self) -> list[Network]:
        """The networks of the proxies whose headers about the client are believed."""
        return [ipaddress.ip_network(text) for text in self.trusted_proxies]
