"""A server with the HTTP APIs of AWS KMS, Google Cloud KMS and Vault's transit engine.

It does what the documented APIs do for a symmetric key, with AES-256-GCM, and refuses as they do.
"""

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from os import urandom
from typing import Any

from aiohttp import web
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VAULT_TOKEN = "hvs.token"
VAULT_PREFIX = "vault:v1:"


class KeyServices:
    """Keys by name, each made at its first use. ``refuse``: answers that replace all others, in order."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self.refuse: list[web.Response] = []

    def seal(self, name: str, data: bytes, context: str) -> bytes:
        nonce = urandom(12)
        return nonce + AESGCM(sha256(name.encode()).digest()).encrypt(nonce, data, context.encode())

    def open(self, name: str, sealed: bytes, context: str) -> bytes | None:
        try:
            key = AESGCM(sha256(name.encode()).digest())
            return key.decrypt(sealed[:12], sealed[12:], context.encode())
        except (InvalidTag, ValueError):
            return None

    async def answer(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        self.requests.append(body)
        if self.refuse:
            return self.refuse.pop(0)
        if "X-Amz-Target" in request.headers:
            return self._aws(request, body)
        if "X-Vault-Token" in request.headers:
            return self._vault(request, body)
        return self._gcp(request, body)

    def _aws(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        assert request.headers["Authorization"].startswith("AWS4-HMAC-SHA256 ")
        name, context = body["KeyId"], json.dumps(body["EncryptionContext"])
        if request.headers["X-Amz-Target"] == "TrentService.Encrypt":
            sealed = self.seal(name, b64decode(body["Plaintext"]), context)
            return web.json_response({"KeyId": name, "CiphertextBlob": b64encode(sealed).decode()})
        opened = self.open(name, b64decode(body["CiphertextBlob"]), context)
        if opened is None:
            return aws_refusal("InvalidCiphertextException")
        return web.json_response({"KeyId": name, "Plaintext": b64encode(opened).decode()})

    def _gcp(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        name, _, operation = request.path.removeprefix("/v1/").rpartition(":")
        context = body["additionalAuthenticatedData"]
        if operation == "encrypt":
            sealed = self.seal(name, b64decode(body["plaintext"]), context)
            return web.json_response({"name": name, "ciphertext": b64encode(sealed).decode()})
        opened = self.open(name, b64decode(body["ciphertext"]), context)
        if opened is None:
            return gcp_refusal("INVALID_ARGUMENT")
        return web.json_response({"plaintext": b64encode(opened).decode()})

    def _vault(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        if request.headers["X-Vault-Token"] != VAULT_TOKEN:
            return vault_refusal(403, "permission denied")
        _, _, mount, operation, name = request.path.split("/")
        context = mount + body["associated_data"]
        if operation == "encrypt":
            sealed = b64encode(self.seal(name, b64decode(body["plaintext"]), context)).decode()
            return web.json_response({"data": {"ciphertext": VAULT_PREFIX + sealed}})
        if not body["ciphertext"].startswith(VAULT_PREFIX):
            return vault_refusal(400, "invalid ciphertext: no prefix")
        try:
            sealed_bytes = b64decode(body["ciphertext"].removeprefix(VAULT_PREFIX))
        except binascii.Error:
            return vault_refusal(400, "invalid ciphertext: could not decode base64")
        opened = self.open(name, sealed_bytes, context)
        if opened is None:
            return vault_refusal(400, "cipher: message authentication failed")
        return web.json_response({"data": {"plaintext": b64encode(opened).decode()}})


def aws_refusal(code: str) -> web.Response:
    return web.json_response({"__type": code, "message": "hidden"}, status=400)


def gcp_refusal(status: str, code: int = 400) -> web.Response:
    return web.json_response({"error": {"code": code, "message": "hidden", "status": status}}, status=code)


def vault_refusal(status: int, error: str) -> web.Response:
    return web.json_response({"errors": [error]}, status=status)


@asynccontextmanager
async def serving_keys() -> AsyncIterator[KeyServices]:
    """Serve the APIs on this machine until the end of the block."""
    services = KeyServices()
    application = web.Application()
    application.router.add_post("/{path:.*}", services.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    services.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield services
    finally:
        await runner.cleanup()
