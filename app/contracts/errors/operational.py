"""Errors for operators: of the environment of the service, not of a request."""

from typing import ClassVar


class OperationalError(Exception):
    """The root of errors that an operator resolves; the message says what is wrong and what to do.

    ``code`` is stable. Errors that clients receive are FlowErrors.
    """

    code: ClassVar[str] = "OPERATIONAL_ERROR"


class BusUnavailableError(OperationalError):
    """Redis does not answer."""

    code = "BUS_UNAVAILABLE"


class SigningKeysError(OperationalError):
    """The keys of an identity provider cannot be read; the message says why, without the address."""

    code = "SIGNING_KEYS_UNREADABLE"


class DefinitionSourceError(OperationalError):
    """A source of definitions cannot be read; the message says which and why."""

    code = "DEFINITION_SOURCE_UNREADABLE"


class DataTransferError(OperationalError):
    """An export or an import cannot be made; the message says why and what to do."""

    code = "DATA_TRANSFER_FAILED"


class WrappingKeyMissingError(OperationalError):
    """Stored data needs wrapping keys that the settings lack; the message names their ids."""

    code = "WRAPPING_KEY_MISSING"
