"""Networks that a setting names: false, true, or a list in CIDR notation."""

import ipaddress
from typing import NamedTuple

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_NETWORKS = 100
_RULE = "must be false, true, or networks such as 10.0.0.0/8,fd00::/8"


class PrivateAddresses(NamedTuple):
    """The addresses outside the public network that may be connected to: all, or these networks."""

    all: bool = False
    networks: tuple[Network, ...] = ()

    def __str__(self) -> str:
        return ",".join(map(str, self.networks)) or str(self.all).lower()


def parse_private_addresses(text: str) -> PrivateAddresses:
    """Read ``false``, ``true``, or networks separated by commas.

    Raises:
        ValueError: The text is something else.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    lowered = [word.lower() for word in words]
    if lowered in (["true"], ["false"]):
        return PrivateAddresses(lowered == ["true"])
    if not words:
        raise ValueError(_RULE)
    if len(words) > MAX_NETWORKS:
        raise ValueError(f"must name at most {MAX_NETWORKS} networks")
    return PrivateAddresses(networks=tuple(parse_network(word, _RULE) for word in words))


def parse_network(word: str, rule: str) -> Network:
    """Read a network or an address. Raises ValueError, which repeats the ``rule`` of the setting."""
    try:
        return ipaddress.ip_network(word)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(word, strict=False)
    except ValueError:
        raise ValueError(f"{word!r} is not a network: {rule}") from None
    raise ValueError(f"{word!r} is an address within a network: write {meant}, or the address alone")
