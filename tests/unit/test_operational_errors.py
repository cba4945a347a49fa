"""Errors for operators."""

from app.contracts.errors import FlowError, OperationalError
from app.process.database_server import EmbeddedError
from app.process.workers import PortError


def subclasses(of: type[OperationalError]) -> list[type[OperationalError]]:
    return [found for direct in of.__subclasses__() for found in (direct, *subclasses(direct))]


def test_every_operational_error_has_a_code_of_its_own() -> None:
    found = [error for error in subclasses(OperationalError) if error.__module__.startswith("app.")]
    assert {EmbeddedError, PortError} <= set(found)
    codes = [error.code for error in found]
    assert len(set(codes)) == len(codes)
    assert OperationalError.code not in codes
    assert not any(issubclass(error, FlowError) for error in found)
