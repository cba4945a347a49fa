"""The text of API keys: ``sfk_<id>_<secret><checksum>``.

The checksum tells typing errors, and texts that only look like a key, from keys without a store. It is no
protection: whoever can read this can compute it.
"""

import re
import secrets
import zlib
from hashlib import sha256

from msgspec import Struct

from app.contracts.integration import KEY_PREFIX

ID_CHARACTERS = 16
SECRET_BYTES = 32
SECRET_CHARACTERS = 43
"""Digits in base 62 of ``SECRET_BYTES``."""
CHECKSUM_CHARACTERS = 6
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FORM = re.compile(
    rf"{KEY_PREFIX}([0-9A-Za-z]{{{ID_CHARACTERS}}})_"
    rf"([0-9A-Za-z]{{{SECRET_CHARACTERS}}})([0-9A-Za-z]{{{CHECKSUM_CHARACTERS}}})\Z"
)
_ID = re.compile(rf"[0-9A-Za-z]{{{ID_CHARACTERS}}}\Z")


class KeyText(Struct, frozen=True):
    """The parts of a key.

    Attributes:
        id: The public part.
        hashed: The SHA-256 of the secret part, in hexadecimal.
    """

    id: str
    hashed: str


def new_key() -> tuple[str, KeyText]:
    """Create a key: the text, which is shown once, and the parts that are stored."""
    key_id = "".join(secrets.choice(_DIGITS) for _ in range(ID_CHARACTERS))
    secret = _base62(int.from_bytes(secrets.token_bytes(SECRET_BYTES), "big"), SECRET_CHARACTERS)
    text = f"{KEY_PREFIX}{key_id}_{secret}"
    return text + _checksum(text), KeyText(key_id, _hash(secret))


def read_key(text: str) -> KeyText | None:
    """Read the parts of a key, None if the text is none, whatever it contains."""
    found = _FORM.match(text)
    if found is None or _checksum(text[:-CHECKSUM_CHARACTERS]) != found[3]:
        return None
    return KeyText(found[1], _hash(found[2]))


def is_key_id(text: str) -> bool:
    """Return whether a text can be the id of a key."""
    return _ID.match(text) is not None


def _hash(secret: str) -> str:
    # Without salt and stretching: the secret is random, and too long to be searched for.
    return sha256(secret.encode("ascii")).hexdigest()


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode("ascii")), CHECKSUM_CHARACTERS)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
