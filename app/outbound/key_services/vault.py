"""A key of the transit engine of HashiCorp Vault, or OpenBao, over its HTTP API.

The token comes from ``VAULT_TOKEN``, or from the file ``VAULT_TOKEN_FILE``, which is read at each call, as an
agent renews it. ``VAULT_NAMESPACE`` and ``VAULT_CACERT`` mean what they mean for Vault's own client.
"""

import os
import ssl
from base64 import b64encode
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from app.outbound.key_services.calls import CONNECT_SECONDS, READ_SECONDS, KeyServiceCalls, owner_context

_BAD_REQUEST, _OK = 400, 200
_CHANGED = ("message authentication failed", "invalid ciphertext")
"""Refusals with status 400 that are about the wrapped key; others are about the key of the engine."""


class _Answer(msgspec.Struct):
    data: dict[str, Any]


class VaultKey:
    """The WrappingKey port on Vault's transit engine.

    Args:
        url: The address of a key of a type with associated data: ``https://HOST/v1/transit/keys/NAME``.
    """

    def __init__(self, url: str) -> None:
        self.id = f"vault:{url}"
        self._mount, _, self._name = url.rpartition("/keys/")
        self._calls = KeyServiceCalls(self.id)

    async def wrap(self, key: bytes, owner: str) -> bytes:
        """Wrap a data key. Raises KeyServiceUnavailableError."""
        found = await self._call("encrypt", {"plaintext": b64encode(key).decode()}, owner, "ciphertext")
        return found.encode()

    async def unwrap(self, wrapped: bytes, owner: str) -> bytes:
        """Return a data key.

        Raises:
            ValueError: It was changed, or belongs to another owner.
            KeyServiceUnavailableError: The service does not respond, or refuses.
        """
        body = {"ciphertext": wrapped.decode(errors="replace")}
        found = await self._call("decrypt", body, owner, "plaintext")
        return self._calls.decoded(found)

    async def _call(self, operation: str, body: dict[str, str], owner: str, member: str) -> str:
        body["associated_data"] = b64encode(owner_context(owner).encode()).decode()
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        try:
            async with (
                self._calls.slot(),
                aiohttp.ClientSession(timeout=timeout, headers=_headers()) as session,
                session.post(
                    f"{self._mount}/{operation}/{self._name}",
                    json=body,
                    ssl=_tls(),
                    allow_redirects=False,
                ) as answer,
            ):
                status, text = answer.status, await answer.text()
        except (aiohttp.ClientError, OSError) as failure:
            raise self._calls.failed(type(failure).__name__) from None
        if status == _BAD_REQUEST and operation == "decrypt" and any(each in text for each in _CHANGED):
            raise ValueError("the wrapped key was changed, or belongs to another owner")
        if status != _OK:
            raise self._calls.failed(f"status {status}")
        try:
            found: str = msgspec.json.decode(text, type=_Answer).data[member]
        except (msgspec.DecodeError, KeyError):
            raise self._calls.failed("an unreadable answer") from None
        return found


def _headers() -> dict[str, str]:
    token = os.environ.get("VAULT_TOKEN", "")
    if not token and (file := os.environ.get("VAULT_TOKEN_FILE")):
        token = Path(file).read_text().strip()
    headers = {"X-Vault-Token": token, "X-Vault-Request": "true"}
    if namespace := os.environ.get("VAULT_NAMESPACE"):
        headers["X-Vault-Namespace"] = namespace
    return headers


def _tls() -> ssl.SSLContext | bool:
    file = os.environ.get("VAULT_CACERT")
    return ssl.create_default_context(cafile=file) if file else True
