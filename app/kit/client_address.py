"""The address and the scheme of the client of a request, behind the proxies that the operator trusts.

A proxy appends the address of its client to ``X-Forwarded-For`` or ``Forwarded``. Everything left of what the
trusted proxies appended is written by the client, so that the list is read from the right.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

CLIENT_ADDRESS = "flow.client_address"
"""The key of the client's address in the scope of a request."""
SECURE = "flow.secure"
"""The key, in the scope of a request, that is true if the client uses TLS."""
MAX_HOPS = 32
"""Entries of a list that are read; no chain of proxies is longer."""
MAX_ADDRESS_CHARACTERS = 64
IPV6_PREFIX = 64
"""One client usually has all addresses of such a network."""
_FOR = re.compile(r"(?:^|;)\s*for\s*=\s*(?:\"([^\"]*)\"|([^;\s]*))", re.IGNORECASE)
_PROTO = re.compile(r"(?:^|;)\s*proto\s*=\s*\"?([a-z]+)", re.IGNORECASE)


class TrustedProxies:
    """The networks of proxies whose headers are believed; without one no header is.

    ``X-Forwarded-For`` counts if both headers are there: a proxy that writes only ``Forwarded`` must remove
    the other one.
    """

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = tuple(networks)

    def resolve(self, scope: Mapping[str, Any]) -> tuple[str, bool]:
        """Return the address of the client of an ASGI scope ("": unknown), and true if it uses TLS."""
        peer = peer_address(scope)
        secure = scope.get("scheme") in ("https", "wss")
        if not self._networks or not self._is_trusted(peer):
            return peer, secure
        values = _header_values(scope)
        client = peer
        for hop in reversed(_hops(values)[-MAX_HOPS:]):
            address = parse_hop(hop)
            if address is None:  # "unknown", or an obfuscated name: the proxy before it is the last known hop
                break
            client = str(address)
            if not self._is_trusted(client):
                break
        return client, secure or _scheme(values) == "https"

    def _is_trusted(self, text: str) -> bool:
        address = parse_hop(text)
        return address is not None and any(
            address.version == network.version and address in network for network in self._networks
        )


def client_address(scope: Mapping[str, Any]) -> str:
    """Return the address of the client as the outermost middleware found it, or else the peer's."""
    found: str | None = scope.get(CLIENT_ADDRESS)
    return peer_address(scope) if found is None else found


def peer_address(scope: Mapping[str, Any]) -> str:
    """Return the address at the other end of the connection, "" if it has none (a Unix socket)."""
    client = scope.get("client")
    if not client:
        return ""
    address = parse_hop(str(client[0]))
    return "" if address is None else str(address)


def parse_hop(text: str) -> Address | None:
    """Read an address as proxies write it: with a port, in brackets, with a zone; IPv4-mapped as IPv4."""
    text = text.strip().strip('"')
    return None if len(text) > MAX_ADDRESS_CHARACTERS else _parse_address(text)


@lru_cache(maxsize=4096)
def _parse_address(text: str) -> Address | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


@lru_cache(maxsize=4096)
def counted_network(address: str) -> str | None:
    """Return the name under which requests of an address are counted: itself, or the /64 of an IPv6 address.

    None for this machine itself: behind such an address is a proxy or a program of the operator. Trust the
    proxy, and the addresses of its clients are counted.
    """
    found = parse_hop(address)
    if found is None or found.is_loopback:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((found, IPV6_PREFIX), strict=False))
    return str(found)


def is_forwarded(scope: Mapping[str, Any]) -> bool:
    """Return true if a proxy, trusted or not, says for whom it forwards a request."""
    return any(name in (b"x-forwarded-for", b"forwarded") for name, _ in scope.get("headers", ()))


def _header_values(scope: Mapping[str, Any]) -> Callable[[bytes], str]:
    headers = scope.get("headers", ())

    def values(wanted: bytes) -> str:
        return ",".join(value.decode("latin-1") for name, value in headers if name == wanted)

    return values


def _hops(values: Callable[[bytes], str]) -> list[str]:
    listed = values(b"x-forwarded-for")
    if listed:
        return listed.split(",")
    elements = values(b"forwarded").split(",")
    found = [_FOR.search(element) for element in elements if element.strip()]
    return ["unknown" if match is None else match[1] or match[2] or "unknown" for match in found]


def _scheme(values: Callable[[bytes], str]) -> str:
    """Return the scheme by the nearest proxy."""
    named = values(b"x-forwarded-proto")
    if named:
        return named.rpartition(",")[2].strip().lower()
    match = _PROTO.search(values(b"forwarded").rpartition(",")[2].strip())
    return match[1].lower() if match else ""
