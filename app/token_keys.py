"""The keys of identity providers and of the base system, by the settings."""

from app.auth.envelope_tokens import EnvelopeVerifier
from app.auth.key_sources import JwksAddress, OidcIssuer
from app.auth.keys import SigningKeys
from app.auth.tokens import LEEWAY_SECONDS
from app.outbound.key_documents import KeyDocuments
from config.settings import Settings
from config.tokens import read_ed25519_key


def signing_keys(settings: Settings) -> SigningKeys | None:
    """Create the keys of an identity provider; None if the settings name none."""
    read = KeyDocuments(plain_http=settings.jwks_plain_http)
    if settings.jwks_url:
        return SigningKeys(JwksAddress(settings.jwks_url, settings.algorithms, read))
    if settings.oidc_issuer:
        return SigningKeys(OidcIssuer(settings.oidc_issuer, settings.algorithms, read))
    return None


def envelopes(settings: Settings) -> EnvelopeVerifier | None:
    """Create the verifier of envelope tokens; None if the settings name no keys for them."""
    if not settings.ed25519_keys:
        return None
    keys = [read_ed25519_key(key) for key in settings.ed25519_keys]
    return EnvelopeVerifier(keys, leeway_seconds=LEEWAY_SECONDS, max_age=settings.ed25519_max_age)
