"""Credentials in the header ``Authorization``, and in the ``auth`` of a socket."""

ENVELOPE_SCHEME = "ED25519-BASIC-TOKEN"
"""The scheme of envelope tokens. As in the base system its case matters."""


def credential_in(header: str) -> str | None:
    """Return the credential in a header: a bearer token, or an envelope token with its scheme."""
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme == ENVELOPE_SCHEME:
        return f"{ENVELOPE_SCHEME} {token}"
    return token if scheme.lower() == "bearer" and " " not in token else None


def envelope_in(credential: str) -> str | None:
    """Return the envelope of a credential; None if it is a bearer token."""
    scheme, space, envelope = credential.partition(" ")
    return envelope if space and scheme == ENVELOPE_SCHEME else None
