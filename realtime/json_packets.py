"""The JSON of Socket.IO packets, the same for the gateway and the Python client."""

import json
from typing import Any

import msgspec

_MAX_DIGITS = 400
"""No double has more."""


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


class Json:
    """JSON for python-socketio: knows our structs, and puts encoded parts in as they are."""

    @staticmethod
    def dumps(value: object, **_: object) -> str:
        """JSON text."""
        return msgspec.json.encode(value).decode()

    @staticmethod
    def loads(text: str | bytes, **_: object) -> Any:
        """The value; ValueError when it is not JSON.

        What only lax JSON has is accepted here, and refused where its ack is known: lone surrogates, which
        JavaScript writes, and integers beyond every double.
        """
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            try:
                return json.loads(text, parse_int=_integer)
            except RecursionError:
                raise ValueError("nested too deep") from None
