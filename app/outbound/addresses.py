"""Public and private IP addresses."""

import ipaddress

_AZURE = ipaddress.ip_address("168.63.129.16")
"""Looks public, but is the host's own service in every virtual machine of Azure."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Return whether an IP address, as a socket names it, belongs to the public network.

    Private, loopback, link-local (metadata services of clouds), multicast and reserved addresses do not, nor
    do IPv6 addresses that contain one of them.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.teredo is not None:
            return False
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(found.packed[-4:])
        if inner is not None:
            found = inner
    return found.is_global and not found.is_multicast and not found.is_reserved and found != _AZURE
