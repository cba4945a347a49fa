"""Addresses outside the public network, in all their forms, and the setting that allows some of them."""

import ipaddress
import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.outbound.addresses import AddressPolicy, is_public
from app.outbound.socket_guard import SocketGuard
from config.networks import parse_private_addresses
from tests.support.long_form import examples


@pytest.mark.parametrize(
    "address",
    [
        "93.184.215.14",
        "8.8.8.8",
        "192.0.1.1",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "2606:2800:21f:cb07::1",
        "2001:4860:4860::8888",
        "2a00:1450:4001:831::200e",
        "::ffff:8.8.8.8",
        "::FFFF:808:808",
        "64:ff9b::808:808",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
        "2606:2800::5efe:8.8.8.8",
    ],
)
def test_a_public_address(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "::1", "::"),
        *("10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.1", "fd00:ec2::254", "fc00::1"),
        *("100.64.0.1", "100.100.100.200", "100.127.255.255"),
        *("169.254.169.254", "169.254.170.2", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1"),
        *("168.63.129.16", "192.0.0.192", "fd20:ce::254"),
        *("224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"),
        *("240.0.0.1", "255.255.255.255", "192.0.2.1", "198.51.100.1", "203.0.113.7", "198.18.0.1"),
        *("192.88.99.1", "2001:db8::1", "3fff::1", "5f00::1", "100::1", "2001:10::1", "2001:20::1"),
        *("::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::ffff:10.0.0.1%1", "::ffff:100.64.0.1"),
        *("::127.0.0.1", "::8.8.8.8", "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8"),
        *("64:ff9b::7f00:1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::100.64.0.1"),
        *("64:ff9b:1::8.8.8.8", "64:ff9b:1:fffe::1", "64:ff9b:2::1"),
        *("2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::"),
        *("2001:0:5ef5:79fb::1", "2001:0:808:808::1"),
        *("2606:2800::5efe:10.0.0.1", "2606:2800::200:5efe:127.0.0.1", "2002:808:808::5efe:127.0.0.1"),
        *("localhost", "", "1.2.3", "0177.0.0.1", "2130706433", "0x7f.1", "127.1", "1.2.3.4.5", "[::1]"),
    ],
)
def test_an_address_that_is_not_public(address: str) -> None:
    assert not is_public(address)


def wrapped(address: ipaddress.IPv4Address) -> list[str]:
    """Return IPv6 addresses that lead, or may lead, to an IPv4 address."""
    octets = address.packed.hex()
    tail = f"{octets[:4]}:{octets[4:]}"
    return [
        f"::ffff:{tail}",
        f"::{tail}",
        f"64:ff9b::{tail}",
        f"64:ff9b:1::{tail}",
        f"2002:{tail}::",
        f"2001:0:{tail}::1",
        f"2606:2800::5efe:{tail}",
        f"2606:2800::200:5efe:{tail}",
    ]


@examples(500)
@given(st.ip_addresses(v=4))
@example(ipaddress.IPv4Address("169.254.169.254"))
@example(ipaddress.IPv4Address("168.63.129.16"))
def test_a_wrapped_address_is_never_more_public_than_the_inner_one(address: ipaddress.IPv4Address) -> None:
    inner = is_public(str(address))
    assert inner or not any(map(is_public, wrapped(address)))
    assert is_public(f"::ffff:{address}") is inner
    assert not inner or address.is_global


@examples(500)
@given(st.ip_addresses(v=6))
def test_only_global_unicast_is_public(address: ipaddress.IPv6Address) -> None:
    if is_public(str(address)) and address.ipv4_mapped is None:
        assert address in ipaddress.ip_network("2000::/3") or address in ipaddress.ip_network("64:ff9b::/96")


@examples(300)
@given(st.text(max_size=40))
def test_any_text_is_read_or_not_public(text: str) -> None:
    policy = AddressPolicy(parse_private_addresses("true"))
    if is_public(text) or policy.trusts(text):
        assert ipaddress.ip_address(text.partition("%")[0])


@pytest.mark.parametrize(
    ("setting", "address", "allowed", "trusted"),
    [
        ("false", "8.8.8.8", True, False),
        ("false", "10.0.0.1", False, False),
        ("false", "127.0.0.1", False, False),
        ("true", "8.8.8.8", True, False),
        ("true", "10.0.0.1", True, True),
        ("true", "::1", True, True),
        ("true", "fe80::1%eth0", True, True),
        ("true", "no address", False, False),
        ("10.0.0.0/8", "10.0.0.1", True, True),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True, True),
        ("10.0.0.0/8", "64:ff9b::a00:1", False, False),
        ("10.0.0.0/8", "11.0.0.1", True, False),
        ("10.0.0.0/8", "127.0.0.1", False, False),
        ("10.0.0.0/8", "169.254.169.254", False, False),
        ("10.0.0.0/8,fd00::/8", "fd00::1", True, True),
        ("10.0.0.7", "10.0.0.7", True, True),
        ("10.0.0.7", "10.0.0.8", False, False),
        ("203.0.113.0/24", "203.0.113.9", True, True),
        ("93.184.215.0/24", "93.184.215.14", True, True),
    ],
)
def test_the_setting_allows_private_addresses(
    setting: str, address: str, allowed: bool, trusted: bool
) -> None:
    policy = AddressPolicy(parse_private_addresses(setting))
    assert policy.allows(address) is allowed
    assert policy.trusts(address) is trusted
    assert policy.is_public_only is (setting == "false")


def of_getaddrinfo(address: str) -> tuple[object, ...]:
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 80))


def test_the_guard_records_refusals_of_its_own_block_only() -> None:
    guard = SocketGuard(is_public)
    with guard.recording() as outer, guard.recording() as record:
        with guard.recording() as allowed:
            guard(of_getaddrinfo("8.8.8.8")).close()
        with pytest.raises(OSError, match="not allowed") as refusal:
            guard(of_getaddrinfo("10.0.0.1"))
    assert [each.refused for each in (outer, allowed, record)] == [False, False, True]
    assert "10.0" not in str(refusal.value)
    with pytest.raises(OSError, match="not allowed"):
        guard(of_getaddrinfo("10.0.0.1"))
