"""Public and private IP addresses, and the addresses that requests may be sent to."""

import ipaddress

from config.networks import PrivateAddresses

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NOT_PUBLIC_4 = tuple(
    map(
        ipaddress.IPv4Network,
        [
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
            *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
            "168.63.129.16",  # Azure: the host's own service, in every virtual machine
        ],
    )
)
"""IANA's special-purpose registry. ``ipaddress`` has another part of it in each version of Python."""
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(map(ipaddress.IPv6Network, ["2001::/23", "2001:db8::/32", "3fff::/20"]))
"""Teredo, ORCHID and benchmarks; documentation."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")
"""The beginnings of interface ids that end with an IPv4 address."""


def parse_address(text: str) -> Address | None:
    """Read an IP address as a socket names it, without its zone; one that is IPv4-mapped as IPv4."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def is_public(address: str) -> bool:
    """Return whether an IP address, as a socket names it, belongs to the public network.

    Private, shared, loopback, link-local (metadata services of clouds), multicast and reserved addresses do
    not, nor do IPv6 addresses that contain one of them.
    """
    found = parse_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        return _is_public_6(found)
    return found is not None and _is_public_4(found)


def _is_public_4(address: ipaddress.IPv4Address) -> bool:
    return not any(address in network for network in _NOT_PUBLIC_4)


def _is_public_6(address: ipaddress.IPv6Address) -> bool:
    if address in _NAT64:
        return _is_public_4(ipaddress.IPv4Address(address.packed[-4:]))
    if address not in _GLOBAL_UNICAST or any(address in each for each in _NOT_PUBLIC_6):
        return False
    if address.packed[8:12] in _ISATAP and not _is_public_4(ipaddress.IPv4Address(address.packed[12:])):
        return False
    return address.sixtofour is None or _is_public_4(address.sixtofour)


class AddressPolicy:
    """The IP addresses that requests may be sent to: public ones, and private ones that a setting allows."""

    def __init__(self, private: PrivateAddresses) -> None:
        self.private = private

    @property
    def is_public_only(self) -> bool:
        """True if no private address is allowed."""
        return not self.private.all and not self.private.networks

    def allows(self, address: str) -> bool:
        """Return whether a request may be sent to an address."""
        return is_public(address) or self.trusts(address)

    def trusts(self, address: str) -> bool:
        """Return whether the setting allows an address; requests may be sent to it without TLS."""
        found = parse_address(address)
        if found is None:
            return False
        if self.private.all:
            return not is_public(address)
        return any(found in network for network in self.private.networks)
