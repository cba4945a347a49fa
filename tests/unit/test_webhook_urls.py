"""URLs of webhooks: accepted, and refused with a reason."""

import ipaddress
import socket
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from app.outbound.addresses import AddressPolicy, is_public
from app.outbound.webhook_urls import url_fault
from config.networks import parse_private_addresses
from tests.support.long_form import examples

PUBLIC = AddressPolicy(parse_private_addresses("false"))
ALL = AddressPolicy(parse_private_addresses("true"))
NETWORK = AddressPolicy(parse_private_addresses("10.0.0.0/8"))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/",
        "https://example.com?a=b",
        "https://EXAMPLE.com:8443/hooks/%7Eflow?a=b&c=@d",
        "HTTPS://example.com.",
        "https://xn--bcher-kva.example/",
        "https://a_b.example.com:1",
        "https://example.com:65535",
        "https://93.184.215.14/",
        "https://[2606:2800:21f:cb07::1]:444/x",
        "https://0x7f.example.com/",
        "https://127.0.0.1.example.com/",
        f"https://example.com/{'x' * 2028}",
    ],
)
def test_a_url_of_a_public_host(url: str) -> None:
    assert url_fault(url, PUBLIC) is None
    assert url_fault(url, ALL) is None


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST", "localhost.", "a.localhost", "a.b.localhost.", "localhost.localdomain"),
        *("ip6-localhost", "127.0.0.1", "127.9.9.9", "[::1]", "[::]", "0.0.0.0"),
        *("10.0.0.1", "192.168.1.1", "172.16.1.1", "100.64.0.1", "169.254.169.254", "168.63.129.16"),
        *("metadata.google.internal", "metadata.google.internal.", "[fd00:ec2::254]"),
        *("[::ffff:127.0.0.1]", "[::ffff:a00:1]", "[64:ff9b::10.0.0.1]", "[2002:7f00:1::]"),
        *("[2001:0:5ef5:79fb::1]", "[64:ff9b:1::1]", "[::127.0.0.1]", "224.0.0.1", "[ff02::1]"),
    ],
)
def test_a_host_that_is_not_public(host: str) -> None:
    fault = url_fault(f"https://{host}:8443/x", PUBLIC)
    assert fault is not None
    assert "must not be that of" in fault
    assert "FLOW_SERVICES_PRIVATE_ADDRESSES" in fault
    assert url_fault(f"https://{host}/x", ALL) is None
    assert url_fault(f"http://{host}/x", ALL) is None


@pytest.mark.parametrize(
    "host",
    [
        *("0177.0.0.1", "0177.1", "0x7f.0.0.1", "0x7f000001", "0X7F.1", "2130706433", "017700000001"),
        *("127.1", "127.0.1", "1.2.3.4.5", "127.0.0.1.", "127.0.0.01", "256.1.1.1", "1", "0", "0x"),
        *("8.8", "8.8.2056", "134744072", "example.123", "example.0x1f", "[127.0.0.1]", "[::1%25eth0]"),
        *("[fe80::1%eth0]", "[::1", "::1", "[]", "[:]", "1::2"),
    ],
)
@pytest.mark.parametrize("policy", [PUBLIC, ALL])
def test_an_address_in_another_form_is_refused_whatever_it_means(host: str, policy: AddressPolicy) -> None:
    fault = url_fault(f"https://{host}/x", policy)
    assert fault is not None
    assert "an IP address" in fault or "IPv4 address as four decimal numbers" in fault


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "ASCII characters"),
        ("https://example.com/ä", "ASCII characters"),
        ("https://bücher.example/", "xn-- form"),
        ("https://127。0。0。1/", "xn-- form"),
        ("https://①②⑦.0.0.1/", "xn-- form"),
        ("https://example.com/a b", "without spaces"),
        ("https://example.com/\n", "without spaces"),
        ("https://exa\tmple.com/", "without spaces"),
        (f"https://example.com/{'x' * 2029}", "at most 2048"),
        ("example.com", "such as https://"),
        ("//example.com/x", "such as https://"),
        ("https:/example.com", "such as https://"),
        ("https:example.com", "such as https://"),
        ("https://example.com/#part", "without '#'"),
        ("https://example.com\\@127.0.0.1/", "without '#' and '\\'"),
        ("https://example.com/a\\b", "without '#' and '\\'"),
        ("ftp://example.com/", "must begin with https://"),
        ("file:///etc/passwd", "must begin with https://"),
        ("gopher://example.com/", "must begin with https://"),
        ("http://example.com/", "must begin with https://, as events have data"),
        ("http://127.0.0.1/", "must begin with https://, as events have data"),
        ("https://user@example.com/", "no user name"),
        ("https://user:word@example.com/", "no user name"),
        ("https://example.com@127.0.0.1/", "no user name"),
        ("https://@example.com/", "no user name"),
        ("https:///x", "host name of letters"),
        ("https://./", "host name of letters"),
        ("https://example..com/", "host name of letters"),
        ("https://example.com../", "host name of letters"),
        ("https://.example.com/", "host name of letters"),
        ("https://-example.com/", "host name of letters"),
        ("https://%6c%6fcalhost/", "host name of letters"),
        ("https://exa{mple.com/", "host name of letters"),
        (f"https://{'a' * 64}.com/", "host name of letters"),
        (f"https://{'a.' * 126}com/", "host name of letters"),
        ("https://example.com:0/", "port of 1 to 65535"),
        ("https://example.com:65536/", "port of 1 to 65535"),
        ("https://example.com:000080/", "port of 1 to 65535"),
        ("https://example.com:/", "port of 1 to 65535"),
        ("https://example.com:x/", "host name, or an IP address"),
        ("https://example.com:80:80/", "host name, or an IP address"),
        ("https://example.com:-1/", "host name, or an IP address"),
    ],
)
def test_a_url_that_cannot_be(url: str, says: str) -> None:
    fault = url_fault(url, PUBLIC)
    assert fault is not None
    assert fault.startswith("url must ")
    assert says in fault


@pytest.mark.parametrize(
    ("url", "policy", "says"),
    [
        ("http://payment:8080/hooks", NETWORK, None),
        ("http://10.1.2.3/", NETWORK, None),
        ("https://10.1.2.3/", NETWORK, None),
        ("http://192.168.1.1/", NETWORK, "not public"),
        ("http://localhost/", NETWORK, "this machine"),
        ("https://metadata.google.internal/", NETWORK, "metadata service"),
        ("http://93.184.215.14/", NETWORK, "must begin with https://, as it names a public address"),
        ("http://93.184.215.14/", ALL, "must begin with https://, as it names a public address"),
        ("http://[2606:2800:21f:cb07::1]/", ALL, "must begin with https://, as it names a public address"),
        ("http://localhost:3000/", ALL, None),
        ("http://a@localhost:3000/", ALL, "no user name"),
    ],
)
def test_private_hosts_that_the_setting_allows(url: str, policy: AddressPolicy, says: str | None) -> None:
    fault = url_fault(url, policy)
    assert fault is None if says is None else says in (fault or "")


ODD = st.sampled_from([*"0123456789abcxX.:@/\\#?%[]-_ \t\n", "127.0.0.1", "::1", "localhost", "https://"])


@examples(2000, fraction=20)
@given(st.lists(ODD, max_size=12).map("".join))
@example("017700000001")
@example("[::ffff:7f00:1]:80")
def test_every_parser_reads_the_same_host_in_an_accepted_url(authority: str) -> None:
    url = f"https://{authority}"
    if url_fault(url, PUBLIC) is not None:
        return
    host = URL(url).raw_host
    assert host is not None
    assert host == urlsplit(url).hostname
    assert URL(url).user is None
    try:
        packed = socket.inet_aton(host)  # accepts all the forms of IPv4 addresses
    except OSError:
        assert ":" not in host or is_public(host)
    else:
        assert str(ipaddress.IPv4Address(packed)) == host
        assert is_public(host)


@examples(500)
@given(st.text())
def test_any_text_is_accepted_or_refused(text: str) -> None:
    for url in (text, f"https://{text}", f"https://{text}/x", f"https://example.com:{text}"):
        fault = url_fault(url, PUBLIC)
        assert fault is None or fault.startswith("url must ")
