"""Markers: texts that are in payloads and secrets, and must not be found in a store, a bus or a log."""

import base64
import re
import secrets
from collections.abc import Iterator

from app.main import Backend
from config.settings import Settings


class Markers:
    """Texts with a common beginning, and secrets, which are found in the clear, in base64 and in hexadecimal.

    Calling it with a name returns a text that says where it was entered.
    """

    def __init__(self) -> None:
        self._beginning = f"Marked{secrets.token_hex(12)}"
        self._secrets: dict[str, list[bytes]] = {}
        self._forms = [(form, text) for form, text in forms(self._beginning.encode())]
        self._name = re.compile(self._beginning.encode() + rb"[A-Za-z]*")

    def __call__(self, name: str) -> str:
        return self._beginning + name

    def add_secret(self, name: str, secret: str | bytes) -> None:
        """Search for a secret too, which has no marker."""
        value = secret.encode() if isinstance(secret, str) else secret
        assert len(value) >= 12, f"{name} is too short to be searched"
        self._secrets.setdefault(name, []).extend(text for _, text in forms(value))

    def found(self, text: bytes) -> set[str]:
        """Return the names of the markers and secrets in a text."""
        found = {match.removeprefix(self._beginning.encode()).decode() for match in self._name.findall(text)}
        found |= {f"a marker in {form}" for form, encoded in self._forms[1:] if encoded in text}
        return found | {
            name for name, texts in self._secrets.items() if any(encoded in text for encoded in texts)
        }


def forms(value: bytes) -> Iterator[tuple[str, bytes]]:
    """Return the forms in which bytes may be written: as they are, hexadecimal, and in base64.

    In base64 a value that begins within a longer one has one of three forms, whose ends are left out.
    """
    yield "utf-8", value
    yield "hexadecimal", value.hex().encode()
    yield "hexadecimal", value.hex().upper().encode()
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + value)
        inner = encoded[4 if shift else 0 : -4]
        yield "base64", inner
        yield "base64", inner.translate(bytes.maketrans(b"+/", b"-_"))


async def secret_of_the_bus(settings: Settings) -> bytes:
    """Return the secret that all workers share, from which the keys of their messages follow."""
    backend = Backend(settings)
    try:
        return await backend.secrets.secret("bus")
    finally:
        await backend.database.close()
