"""The addresses that signing keys are read from: a JWKS document, or an OpenID Connect issuer."""

from collections.abc import Collection
from typing import Protocol

from app.auth.jwk_sets import ASYMMETRIC, KeySet, read_key_set, read_object
from app.contracts.errors import SigningKeysError

DISCOVERY_PATH = "/.well-known/openid-configuration"


class DocumentReader(Protocol):
    """Reads a document of an identity provider."""

    async def __call__(self, url: str, *, configured: str) -> bytes:
        """Return the content at a URL.

        Args:
            url: The URL of the document.
            configured: The URL in the settings. The address of another server must be public.

        Raises:
            SigningKeysError: The server failed, or refused; or no request may be sent to the address.
        """


class KeySource(Protocol):
    """Reads the current signing keys; ``setting`` is the name of the setting with their address."""

    setting: str

    async def read(self) -> KeySet:
        """Return the keys. Raises SigningKeysError."""


class JwksAddress:
    """The address of a JWKS document."""

    setting = "FLOW_JWKS_URL"

    def __init__(self, url: str, algorithms: Collection[str], read_document: DocumentReader) -> None:
        self._url = url
        self._algorithms = algorithms
        self._read_document = read_document

    async def read(self) -> KeySet:
        """Return the keys of the document. Raises SigningKeysError."""
        return read_key_set(await self._read_document(self._url, configured=self._url), self._algorithms)


class OidcIssuer:
    """An issuer that publishes the address of its keys (OpenID Connect Discovery 1.0)."""

    setting = "FLOW_OIDC_ISSUER"

    def __init__(self, issuer: str, algorithms: Collection[str], read_document: DocumentReader) -> None:
        self._issuer = issuer
        self._algorithms = algorithms
        self._read_document = read_document

    async def read(self) -> KeySet:
        """Return the keys of the address that the issuer publishes now. Raises SigningKeysError."""
        url = self._issuer.rstrip("/") + DISCOVERY_PATH
        configuration = read_object(await self._read_document(url, configured=self._issuer))
        if configuration.get("issuer") != self._issuer:
            raise SigningKeysError("its configuration names another issuer")
        algorithms = self._accepted(configuration.get("id_token_signing_alg_values_supported"))
        keys_url = configuration.get("jwks_uri")
        if not isinstance(keys_url, str):
            raise SigningKeysError("its configuration has no jwks_uri")
        return read_key_set(await self._read_document(keys_url, configured=self._issuer), algorithms)

    def _accepted(self, supported: object) -> frozenset[str]:
        if not isinstance(supported, list) or not all(isinstance(name, str) for name in supported):
            raise SigningKeysError("its configuration has no id_token_signing_alg_values_supported")
        accepted = ASYMMETRIC.intersection(self._algorithms, supported)
        if not accepted:
            raise SigningKeysError("it supports none of the algorithms in FLOW_JWT_ALGORITHMS")
        return accepted
