"""MongoDB: the documents (collections, indexes, TTLs) and the stores over them."""

from importlib.util import find_spec

from app.kit.lazy import without_modules

if find_spec("OpenSSL") is None:
    # PyMongo loads the cryptography library for pyOpenSSL alone, before it finds that missing: 0.05 s of CPU.
    with without_modules("cryptography", "cryptography.x509"):
        import pymongo.ssl_support  # noqa: F401
