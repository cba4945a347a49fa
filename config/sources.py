"""Addresses and credentials of definition sources. No message contains a credential."""

import base64
import ipaddress
import re
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

MAX_URL_CHARACTERS = 2048
MAX_CREDENTIALS_CHARACTERS = 8192
AUTH_FORMS = "bearer:TOKEN, basic:USER:PASSWORD or apikey:HEADER:VALUE"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}\Z")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\Z")
_STANDARD_HEADERS = {
    *("accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type"),
    *("cookie", "expect", "host", "if-none-match", "keep-alive", "te", "trailer", "transfer-encoding"),
    *("upgrade", "user-agent", "via"),
}


class SourceSetting(NamedTuple):
    """One source of ``FLOW_DEFINITIONS`` beside the database.

    ``where`` is a path or a URL; ``overrides``: it takes precedence over the database.
    """

    kind: Literal["file", "remote"]
    where: str
    overrides: bool

    @property
    def path(self) -> Path:
        """The path of a file or folder."""
        return Path(self.where)


def is_remote(source: str) -> bool:
    """Return whether a source is a URL."""
    return source.lower().startswith(("http://", "https://"))


def check_remote(url: str) -> None:
    """Raise ValueError unless definitions can be read from ``url``."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("contains an invalid URL") from None
    if len(url) > MAX_URL_CHARACTERS or not re.fullmatch(r"[\x21-\x7e]+", url):
        raise ValueError(f"must be a URL of at most {MAX_URL_CHARACTERS} ASCII characters, without spaces")
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise ValueError("must be a URL such as https://flows.example.org/api/flows")
    if "@" in parts.netloc:
        raise ValueError(
            f"must be {shown_url(url)}, without user and password: put them into FLOW_DEFINITIONS_AUTH"
        )
    if parts.fragment:
        raise ValueError(f"must be {shown_url(url)}, without the part after '#'")


def shown_url(url: str) -> str:
    """Return a URL without parts that may be secret: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{_host_and_port(parts)}{parts.path}"


def source_label(url: str) -> str:
    """Return the name of a source at ``url`` that its versions store."""
    parts = urlsplit(url)
    return f"remote:{_host_and_port(parts)}{parts.path}"


def origin_of(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port, to which credentials are restricted."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]


def is_interceptable(url: str) -> bool:
    """Return whether others can read and change the traffic: not encrypted, and not on this machine."""
    scheme, host, _ = origin_of(url)
    if scheme == "https" or host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def auth_header(auth: str) -> tuple[str, str]:
    """Return the name and the value of the header for credentials such as ``bearer:TOKEN``.

    Raises:
        ValueError: The credentials have none of the forms in ``AUTH_FORMS``.
    """
    kind, _, rest = auth.partition(":")
    kind = kind.strip().lower()
    if len(rest) > MAX_CREDENTIALS_CHARACTERS:
        raise ValueError(f"must have at most {MAX_CREDENTIALS_CHARACTERS} characters")
    if kind == "bearer" and re.fullmatch(r"[\x21-\x7e]+", rest):
        return "Authorization", f"Bearer {rest}"
    if kind == "basic" and re.fullmatch(r"[^:\x00-\x1f\x7f]+:[^\x00-\x1f\x7f]*", rest):
        return "Authorization", f"Basic {base64.b64encode(rest.encode()).decode()}"
    if kind == "apikey":
        name, _, value = rest.partition(":")
        if name.lower() in _STANDARD_HEADERS:
            raise ValueError(f"apikey: the header {name} is a standard header of HTTP")
        if _HEADER_NAME.match(name) and _HEADER_VALUE.match(value):
            return name, value
    raise ValueError(f"must be {AUTH_FORMS}")


def check_auth_use(urls: list[str]) -> None:
    """Raise ValueError unless one set of credentials may be sent to all of ``urls``."""
    if not urls:
        raise ValueError("requires an https:// source in FLOW_DEFINITIONS")
    if len({origin_of(url) for url in urls}) > 1:
        raise ValueError("is sent to all remote sources, so they must have the same host and port")
    for url in urls:
        if is_interceptable(url):
            raise ValueError(f"is sent over https only (or to this machine), not to {shown_url(url)}")


def _host_and_port(parts: SplitResult) -> str:
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if parts.port is None else f"{host}:{parts.port}"
