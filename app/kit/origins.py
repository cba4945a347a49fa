"""Origins of web pages: normalization, and the origins of the service itself."""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

_PORTS = {"http": "80", "https": "443"}
_HOST = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_PORT = re.compile(r"[0-9]{1,5}")
_FORWARDED = re.compile(r"(?:^|;)\s*(proto|host)\s*=\s*(?:\"([^\"]*)\"|([^;\s]*))", re.IGNORECASE)


def normalize_origin(text: str) -> str:
    """Write an origin as browsers do: in small letters, without a default port.

    Raises:
        ValueError: The text is no origin; the message repeats it unless it may contain a password.
    """
    given = "one with '@'" if "@" in text else repr(text)  # it may have a password
    example = f"must be origins such as https://app.example.org, not {given}"
    if "*" in text:
        raise ValueError(f"{example}: a pattern matches no origin; list each origin, or * alone for all")
    try:
        parts = urlsplit(text)
        host = parts.netloc.lower()
    except ValueError:
        raise ValueError(example) from None
    if parts.scheme not in _PORTS or "@" in host:
        raise ValueError(example)
    if parts.path or parts.query or parts.fragment or text[-1:] in "?#":
        raise ValueError(f"{example}: an origin has no path")
    name, port = host, ""
    if not host.endswith("]"):
        name, _, port = host.rpartition(":") if ":" in host else (host, "", "")
    try:
        name = name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        raise ValueError(example) from None
    if not _HOST.fullmatch(name) or (host.endswith(":") or (port and not _is_port(port))):
        raise ValueError(example)
    port = str(int(port)) if port else ""
    shown_port = "" if port in ("", _PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{name}{shown_port}"


def own_origins(scheme: str, header: Callable[[str], str | None]) -> set[str]:
    """Return the origins at which a request reached the service, by its headers and those of proxies.

    No page can set these headers of a request that its browser sends to another site.
    """
    scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)
    host = header("host") or ""
    forwarded = _first_forwarded(header("forwarded") or "")
    forwarded_host = (header("x-forwarded-host") or forwarded.get("host") or host).split(",")[0].strip()
    forwarded_scheme = (header("x-forwarded-proto") or forwarded.get("proto") or scheme).split(",")[0].strip()
    port = (header("x-forwarded-port") or "").split(",")[0].strip()
    candidates = [f"{scheme}://{host}", f"{forwarded_scheme}://{forwarded_host}"]
    if port and not re.search(r":\d+\Z", forwarded_host):
        candidates.append(f"{forwarded_scheme}://{forwarded_host}:{port}")
    found = set()
    for origin in candidates:
        try:
            found.add(normalize_origin(origin))
        except ValueError:
            continue
    return found


def _first_forwarded(header: str) -> dict[str, str]:
    """Read the scheme and host of the first element of a ``Forwarded`` header (RFC 7239)."""
    first = header.split(",", maxsplit=1)[0]
    return {name.lower(): quoted or plain for name, quoted, plain in _FORWARDED.findall(first)}


def _is_port(text: str) -> bool:
    return _PORT.fullmatch(text) is not None and 0 < int(text) <= 65_535
