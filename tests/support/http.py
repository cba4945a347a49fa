"""HTTP clients of services that speak plain HTTP, as those of the tests do.

httpx loads the certificates of all authorities for each client, which costs 50 ms of CPU.
"""

import ssl
from typing import Any

import httpx

NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Accepts no certificate."""


def http_client(url: str, **options: Any) -> httpx.AsyncClient:
    """A client of the service at ``url``."""
    return httpx.AsyncClient(base_url=url, verify=NO_AUTHORITIES, **{"timeout": 30, **options})


def blocking_http_client(url: str, **options: Any) -> httpx.Client:
    """A client of the service at ``url``, for tests without an event loop."""
    return httpx.Client(base_url=url, verify=NO_AUTHORITIES, **{"timeout": 30, **options})
