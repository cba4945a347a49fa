"""The address of a client behind proxies: nobody can choose it by a header."""

import ipaddress
from typing import Any

import pytest

from app.kit.client_address import (
    CLIENT_ADDRESS,
    MAX_HOPS,
    TrustedProxies,
    client_address,
    counted_network,
    is_forwarded,
)
from config.settings import SettingsError, load_settings

PROXY = "10.0.0.7"
TRUSTED = TrustedProxies([ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")])


def request(peer: str | None, *headers: tuple[str, str], scheme: str = "http") -> dict[str, Any]:
    return {
        "client": None if peer is None else (peer, 1234),
        "scheme": scheme,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }


def forwarded_for(value: str, peer: str = PROXY) -> str:
    return TRUSTED.resolve(request(peer, ("x-forwarded-for", value)))[0]


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9, 10.2.0.1", "203.0.113.9"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("1.1.1.1, unknown", PROXY),
        ("1.1.1.1, unknown, 10.2.0.1", "10.2.0.1"),
        ("1.1.1.1, <script>", PROXY),
        ("10.2.0.1, 10.3.0.1", "10.2.0.1"),
        (f"{'1' * 60_000}, 10.3.0.1", "10.3.0.1"),
        ("", PROXY),
        (",,", PROXY),
    ],
)
def test_the_rightmost_hop_that_is_not_trusted_is_the_client(value: str, client: str) -> None:
    assert forwarded_for(value) == client


def test_a_header_of_somebody_who_is_not_trusted_means_nothing() -> None:
    headers = [("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=1.1.1.1"), ("x-forwarded-proto", "https")]
    assert TRUSTED.resolve(request("203.0.113.5", *headers)) == ("203.0.113.5", False)
    assert TrustedProxies().resolve(request(PROXY, *headers)) == (PROXY, False)
    assert TRUSTED.resolve(request(None, *headers)) == ("", False)


def test_lines_of_a_header_are_one_list_and_its_beginning_is_not_read() -> None:
    lines = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "203.0.113.9")]
    assert TRUSTED.resolve(request(PROXY, *lines))[0] == "203.0.113.9"
    hops = ["203.0.113.9", *["10.0.0.1"] * MAX_HOPS]
    assert forwarded_for(", ".join(hops)) == "10.0.0.1"


@pytest.mark.parametrize(
    ("value", "client", "secure"),
    [
        ("for=203.0.113.9;proto=https", "203.0.113.9", True),
        ('for="[2001:db8::1]:4711";by=10.0.0.7', "2001:db8::1", False),
        ("for=1.1.1.1, for=203.0.113.9;proto=http", "203.0.113.9", False),
        ("for=1.1.1.1;proto=https, for=_hidden", PROXY, False),
        ("by=10.0.0.7", PROXY, False),
    ],
)
def test_forwarded_is_read_as_rfc_7239_writes_it(value: str, client: str, secure: bool) -> None:
    assert TRUSTED.resolve(request(PROXY, ("forwarded", value))) == (client, secure)


def test_of_both_headers_x_forwarded_for_counts() -> None:
    both = request(PROXY, ("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "203.0.113.9"))
    assert TRUSTED.resolve(both)[0] == "203.0.113.9"
    assert is_forwarded(both)
    assert not is_forwarded(request(PROXY))


def test_tls_is_that_of_the_connection_or_as_a_trusted_proxy_says() -> None:
    assert TRUSTED.resolve(request("203.0.113.5", scheme="https"))[1]
    assert TRUSTED.resolve(request("203.0.113.5", scheme="wss"))[1]
    assert TRUSTED.resolve(request(PROXY, ("x-forwarded-proto", "HTTPS")))[1]
    assert TRUSTED.resolve(request(PROXY, ("x-forwarded-proto", "http, https")))[1]
    assert not TRUSTED.resolve(request(PROXY, ("x-forwarded-proto", "https, http")))[1]


def test_ipv6_is_counted_by_network_and_this_machine_not_at_all() -> None:
    assert counted_network("2001:db8:1:2:3:4:5:6") == counted_network("2001:db8:1:2::") == "2001:db8:1:2::/64"
    assert counted_network("2001:db8:1:3::") != counted_network("2001:db8:1:2::")
    assert counted_network("203.0.113.9") == counted_network("::ffff:203.0.113.9") == "203.0.113.9"
    assert [counted_network(own) for own in ("127.0.0.1", "::1", "127.9.9.9", "")] == [None] * 4


def test_the_address_that_the_middleware_found_comes_first() -> None:
    assert client_address({**request(PROXY), CLIENT_ADDRESS: "203.0.113.9"}) == "203.0.113.9"
    assert client_address(request("fe80::1%eth0")) == "fe80::1"


def test_the_setting_names_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().trusted_networks == []
    monkeypatch.setenv("FLOW_TRUSTED_PROXIES", "10.0.0.0/8, ::1,192.0.2.1")
    settings = load_settings()
    assert settings.trusted_proxies == ["10.0.0.0/8", "::1/128", "192.0.2.1/32"]
    assert settings.masked()["FLOW_TRUSTED_PROXIES"] == "10.0.0.0/8,::1/128,192.0.2.1/32"
    for wrong in ("true", "*", "10.0.0.1/8", "proxy.example.org"):
        monkeypatch.setenv("FLOW_TRUSTED_PROXIES", wrong)
        with pytest.raises(SettingsError, match="FLOW_TRUSTED_PROXIES"):
            load_settings()
