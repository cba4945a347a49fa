"""Arguments of commands in JSON, with every fault by its JSON pointer."""

from typing import Any, TypeVar

import click
import msgspec

from app.contracts.errors import InvalidRequestError
from app.flow.values.struct_errors import faults_of, surrogate_faults
from app.kit.integers import convert_json

T = TypeVar("T")


def read_json(text: str, shape: type[T]) -> T:
    """Decode an argument.

    Raises:
        InvalidRequestError: With every fault of the value.
        click.BadParameter: It is not JSON.
    """
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as refusal:
        faults = surrogate_faults(text.encode("utf-8", "backslashreplace"))
        if faults:
            raise InvalidRequestError(faults) from None
        raise click.BadParameter(str(refusal), param_hint="JSON") from None
    return convert_options(value, shape)


def convert_options(value: Any, shape: type[T]) -> T:
    """Convert values of options, or of JSON, to a command. Raises InvalidRequestError."""
    try:
        return convert_json(value, shape)
    except msgspec.ValidationError:
        raise InvalidRequestError(faults_of(value, shape)) from None


def shown_json(value: Any) -> str:
    """Return a value as JSON for people."""
    return msgspec.json.format(msgspec.json.encode(value)).decode()
