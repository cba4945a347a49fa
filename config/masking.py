"""Masks secrets in settings that are shown to an operator."""

import re

from config.sources import is_remote, shown_url

_HARMLESS_OPTIONS = frozenset(
    [
        "appname",
        "authsource",
        "authmechanism",
        "connecttimeoutms",
        "directconnection",
        "heartbeatfrequencyms",
        "journal",
        "loadbalanced",
        "maxidletimems",
        "maxpoolsize",
        "maxstalenessseconds",
        "minpoolsize",
        "readconcernlevel",
        "readpreference",
        "replicaset",
        "retryreads",
        "retrywrites",
        "serverselectiontimeoutms",
        "sockettimeoutms",
        "ssl",
        "srvmaxhosts",
        "tls",
        "tlsallowinvalidcertificates",
        "tlscafile",
        "tlscertificatekeyfile",
        "w",
        "wtimeoutms",
        "zlibcompressionlevel",
        "compressors",
        "db",
        "health_check_interval",
        "max_connections",
        "protocol",
        "socket_connect_timeout",
        "socket_timeout",
        "socket_keepalive",
        "ssl_ca_certs",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_keyfile",
    ]
)
"""Options in the URLs of MongoDB and Redis whose values are shown. Others may be secret."""


_HOSTS = re.compile(r"(?:(?:\[[^\]]*\]|[^:,\[\]]*)(?::[0-9]{0,5})?(?:,|$))+")
"""Host names or addresses with ports, separated by commas."""


def mask_url(url: str) -> str:
    """Return a URL in which everything is masked that is not known to be harmless.

    Masked are the password, the user of a web address or if there is no password, the values of options, and
    the fragment.
    """
    scheme, separator, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")  # the last "@": an unescaped password may contain more
    if not separator or "?" in credentials:  # an unescaped "?" or "@": its place is unknown
        return f"{scheme}{separator}***" if separator else "***"
    place, fragment, _ = place.partition("#")
    place, question, query = place.partition("?")
    hosts, slash, path = place.partition("/")
    if not _HOSTS.fullmatch(hosts):  # the text in place of a port may be a password
        place = f"***{slash}{path}"
    shown = place
    if at:
        user, colon, _ = credentials.partition(":")
        named = colon and not scheme.startswith("http")
        shown = f"{user}:***@{place}" if named else f"***@{place}"
    if question:
        shown += "?" + "&".join(_shown_option(option) for option in query.split("&"))
    return f"{scheme}{separator}{shown}{'#***' if fragment else ''}"


def _shown_option(option: str) -> str:
    name, equals, _ = option.partition("=")
    if equals and name.lower() in _HARMLESS_OPTIONS:
        return option
    return f"{name}=***" if equals else "***"


def mask_source(part: str) -> str:
    """Return one of several values, without the query of a URL, which may contain a key."""
    return f"{shown_url(part)}?***" if is_remote(part) and "?" in part else part
