"""Checks of the URL of a webhook, without resolving its name.

The grammar is strict, so that no other parser can read another host from the same text.
"""

import ipaddress
import re

from app.outbound.addresses import AddressPolicy

MAX_URL_CHARACTERS = 2048
MAX_HOST_CHARACTERS = 253
_VISIBLE = re.compile(r"[\x21-\x7e]+\Z")
_URL = re.compile(
    r"""(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://
    (?P<authority>[^/?\#\\]*)
    (?P<rest>[/?][^\#\\]*)?\Z""",
    re.VERBOSE,
)
_HOST_AND_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]*\]|[^\[\]:]*)(?::(?P<port>[0-9]*))?\Z")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_NUMBER = re.compile(r"(?:0[xX][0-9A-Fa-f]*|[0-9]+)\Z")
_LOOPBACK_NAMES = frozenset(
    [
        *("localhost", "localhost.localdomain", "localhost6", "localhost6.localdomain6"),
        *("ip6-localhost", "ip6-loopback"),
    ]
)
_METADATA_NAMES = frozenset(["metadata.google.internal", "metadata.goog"])
_LOOPBACK = ("127.0.0.1", "::1")
_METADATA = "169.254.169.254"
_SETTING = "FLOW_SERVICES_PRIVATE_ADDRESSES"


def url_fault(url: str, policy: AddressPolicy) -> str | None:
    """Return why a URL cannot be that of a webhook, None if it can.

    Args:
        url: The URL.
        policy: The addresses that are allowed. The one that a name resolves to is checked at each connection.
    """
    if len(url) > MAX_URL_CHARACTERS or not _VISIBLE.match(url):
        return (
            f"url must have at most {MAX_URL_CHARACTERS} ASCII characters without spaces; write an "
            "international host name in its xn-- form"
        )
    parts = _URL.match(url)
    if parts is None:
        return "url must be such as https://example.com/webhooks, without '#' and '\\'"
    scheme = parts["scheme"].lower()
    if scheme not in ("http", "https"):
        return "url must begin with https:// (or http:// for a private address)"
    if scheme == "http" and policy.is_public_only:
        return (
            "url must begin with https://, as events have data of users; for http:// to private addresses "
            f"list them in the setting {_SETTING}, such as 127.0.0.0/8, and start the server again"
        )
    if "@" in parts["authority"]:
        return "url must have no user name and password; requests are signed instead"
    place = _HOST_AND_PORT.match(parts["authority"])
    if place is None:
        return "url must have a host name, or an IP address"
    if place["port"] is not None and not _is_port(place["port"]):
        return "url must have a port of 1 to 65535, or none"
    return _host_fault(place["host"], policy, is_plain=scheme == "http")


def _is_port(text: str) -> bool:
    return 1 <= len(text) <= 5 and 1 <= int(text) <= 65535


def _host_fault(host: str, policy: AddressPolicy, *, is_plain: bool) -> str | None:
    if host.startswith("[") and ":" in host:
        return _literal_fault(host[1:-1], policy, is_plain=is_plain)
    name = host.lower().removesuffix(".")
    labels = name.split(".")
    if not all(map(_LABEL.match, labels)) or len(name) > MAX_HOST_CHARACTERS:
        return "url must have a host name of letters, digits, '-', '_' and '.', or an IP address"
    if _NUMBER.match(labels[-1]):
        # No top-level domain is a number: resolvers read such names as addresses, also octal ones.
        return _literal_fault(host, policy, is_plain=is_plain)
    if name in _LOOPBACK_NAMES or labels[-1] == "localhost":
        return None if any(map(policy.trusts, _LOOPBACK)) else _refused("this machine")
    if name in _METADATA_NAMES:
        return None if policy.trusts(_METADATA) else _refused("the metadata service of a cloud")
    return None


def _literal_fault(text: str, policy: AddressPolicy, *, is_plain: bool) -> str | None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return "url must have an IPv4 address as four decimal numbers, and an IPv6 address as [2001:db8::1]"
    if not policy.allows(text):
        return _refused("an address that is not public")
    if is_plain and not policy.trusts(text):
        return "url must begin with https://, as it names a public address"
    return None


def _refused(target: str) -> str:
    return f"url must not be that of {target}, unless the setting {_SETTING} allows it"
