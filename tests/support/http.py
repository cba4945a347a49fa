"""HTTP clients of services that speak plain HTTP, as those of the tests do.

httpx loads the certificates of all authorities for each client, which costs 50 ms of CPU. Every answer is
compared with the OpenAPI document (tests/support/declared.py).
"""

import ssl
from typing import Any

import httpx

from tests.support.declared import require_declared, require_declared_async

NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Accepts no certificate."""


def http_client(url: str, **options: Any) -> httpx.AsyncClient:
    """A client of the service at ``url``."""
    defaults = {"timeout": 30, "event_hooks": {"response": [require_declared_async]}}
    return httpx.AsyncClient(base_url=url, verify=NO_AUTHORITIES, **{**defaults, **options})


def blocking_http_client(url: str, **options: Any) -> httpx.Client:
    """A client of the service at ``url``, for tests without an event loop."""
    defaults = {"timeout": 30, "event_hooks": {"response": [require_declared]}}
    return httpx.Client(base_url=url, verify=NO_AUTHORITIES, **{**defaults, **options})
