"""Where definitions may come from, as the settings write it. Nothing here repeats a credential."""

import base64
import ipaddress
import re
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

MAX_URL = 2048
MAX_CREDENTIALS = 8192
AUTH_FORMS = "bearer:TOKEN, basic:USER:PASSWORD or apikey:HEADER:VALUE"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}\Z")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\Z")
_HEADERS_OF_HTTP = {
    *("accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type"),
    *("cookie", "expect", "host", "if-none-match", "keep-alive", "te", "trailer", "transfer-encoding"),
    *("upgrade", "user-agent", "via"),
}


class SourceSetting(NamedTuple):
    """One source of ``FLOW_DEFINITIONS`` beside the database: a path or a URL. ``overrides``: it comes before
    the database."""

    kind: Literal["file", "remote"]
    where: str
    overrides: bool

    @property
    def path(self) -> Path:
        """Of a file or folder."""
        return Path(self.where)


def is_remote(source: str) -> bool:
    """True if a source is meant as a URL."""
    return source.lower().startswith(("http://", "https://"))


def check_remote(url: str) -> None:
    """Raise ValueError unless definitions can be asked for at ``url``."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("has a URL that cannot be read") from None
    if len(url) > MAX_URL or not re.fullmatch(r"[\x21-\x7e]+", url):
        raise ValueError(f"takes URLs of at most {MAX_URL} ASCII characters, without spaces")
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise ValueError("takes URLs such as https://flows.example.org/api/flows")
    if "@" in parts.netloc:
        raise ValueError(
            f"takes {shown_url(url)} without user and password: they go into FLOW_DEFINITIONS_AUTH"
        )
    if parts.fragment:
        raise ValueError(f"takes {shown_url(url)} without what follows '#'")


def shown_url(url: str) -> str:
    """A URL without what may be secret: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{_host_and_port(parts)}{parts.path}"


def source_label(url: str) -> str:
    """The name of a source at ``url``, as its versions have it."""
    parts = urlsplit(url)
    return f"remote:{_host_and_port(parts)}{parts.path}"


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: whom credentials are for."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]


def is_readable_on_the_way(url: str) -> bool:
    """True if others can read and change what is sent: it is neither encrypted nor stays on this machine."""
    scheme, host, _ = origin_of(url)
    if scheme == "https" or host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def auth_header(auth: str) -> tuple[str, str]:
    """The header, its name and its value, that credentials such as ``bearer:TOKEN`` stand for. Raises
    ValueError."""
    kind, _, rest = auth.partition(":")
    kind = kind.strip().lower()
    if len(rest) > MAX_CREDENTIALS:
        raise ValueError(f"takes at most {MAX_CREDENTIALS} characters")
    if kind == "bearer" and re.fullmatch(r"[\x21-\x7e]+", rest):
        return "Authorization", f"Bearer {rest}"
    if kind == "basic" and re.fullmatch(r"[^:\x00-\x1f\x7f]+:[^\x00-\x1f\x7f]*", rest):
        return "Authorization", f"Basic {base64.b64encode(rest.encode()).decode()}"
    if kind == "apikey":
        name, _, value = rest.partition(":")
        if name.lower() in _HEADERS_OF_HTTP:
            raise ValueError(f"apikey: the header {name} is HTTP's own")
        if _HEADER_NAME.match(name) and _HEADER_VALUE.match(value):
            return name, value
    raise ValueError(f"takes {AUTH_FORMS}")


def check_auth_use(urls: list[str]) -> None:
    """Raise ValueError unless one set of credentials may be sent to all of ``urls``."""
    if not urls:
        raise ValueError("there is no https:// source in FLOW_DEFINITIONS that it is for")
    if len({origin_of(url) for url in urls}) > 1:
        raise ValueError("is sent to all remote sources, so that they must be of one host, with one port")
    for url in urls:
        if is_readable_on_the_way(url):
            raise ValueError(f"is sent over https only (or to this machine), not to {shown_url(url)}")


def _host_and_port(parts: SplitResult) -> str:
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if parts.port is None else f"{host}:{parts.port}"
