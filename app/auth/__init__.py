"""Authentication of callers, and their permissions."""

from app.kit.lazy import lazy_module

# It brings the cryptography library, 0.1 s of CPU: loaded by TokenVerifier.warm_up, or for the first token.
lazy_module("jwt")
