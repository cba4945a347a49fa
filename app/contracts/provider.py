"""The configuration of a flow provider, as the reference has it."""

from typing import Annotated, Literal

from msgspec import Meta, Struct


class ProviderAuthentication(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Authentication at a remote source.

    ``credentials`` are a token (``bearer``), ``USER:PASSWORD`` (``basic``) or ``HEADER:VALUE`` (``apikey``).
    """

    type: Literal["bearer", "basic", "apikey"]
    credentials: str

    def __repr__(self) -> str:
        return f"ProviderAuthentication({self.type!r}, ***)"


class FlowProviderConfig(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The source of definitions.

    ``connection_string`` is the URL of a MongoDB, with its database (``server_flow`` when it names none);
    ``file_path`` a file or a folder; ``remote_url`` another server, with ``authentication``. Each goes with
    the ``source`` of its name, and ``hybrid`` accepts any of them: the database takes precedence, then files,
    then the remote server. ``cache_timeout`` is the lifetime of cached definitions in milliseconds; 0: no
    cache.
    """

    source: Literal["database", "file", "remote", "hybrid"]
    connection_string: str | None = None
    file_path: str | None = None
    remote_url: str | None = None
    cache_timeout: Annotated[int, Meta(ge=0, le=86_400_000)] = 300_000
    authentication: ProviderAuthentication | None = None

    def __repr__(self) -> str:  # the URLs may have passwords
        return f"FlowProviderConfig({self.source!r})"
