"""The JSON of Socket.IO packets, the same for the gateway and the Python client."""

import json
from typing import Any

import msgspec

_MAX_DIGITS = 400
"""No double has more digits."""


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


class Json:
    """JSON for python-socketio: encodes structs, and embeds encoded parts unchanged."""

    @staticmethod
    def dumps(value: object, **_: object) -> str:
        """Encode a value."""
        return msgspec.json.encode(value).decode()

    @staticmethod
    def loads(text: str | bytes, **_: object) -> Any:
        """Decode JSON text.

        Lone surrogates, which JavaScript writes, and integers beyond every double are accepted here. Handlers
        refuse them, as they can answer the ack.

        Raises:
            ValueError: The text is not JSON.
        """
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            try:
                return json.loads(text, parse_int=_integer)
            except RecursionError:
                raise ValueError("nested too deep") from None
