"""Answers of a database that cannot write are an outage, with a reason for its operator."""

from typing import Any

import pytest
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError, WriteError

from app.contracts.errors import StoreUnavailableError
from models.database import is_outage, store_errors
from models.write_failures import CANNOT_WRITE, DISK_FULL, LAST_FAILURE

NO_SPACE = 'WiredTiger error: WtError { code: 28, message: "No space left on device" }'
PANIC = 'WiredTiger error: WtError { code: -31804, message: "WT_PANIC: WiredTiger library panic" }'


def answer(code: int, message: str) -> dict[str, Any]:
    """A fault as a server describes it."""
    return {"ok": 0.0, "code": code, "errmsg": message}


ANSWERS = [
    (OperationFailure(NO_SPACE, 1, answer(1, NO_SPACE)), DISK_FULL),
    (OperationFailure(PANIC, 1, answer(1, PANIC)), CANNOT_WRITE),
    (OperationFailure("x", 1, answer(1, "internal server error")), CANNOT_WRITE),
    (OperationFailure("write failed", 14031, answer(14031, "write failed")), DISK_FULL),
    (OperationFailure("x", 8, answer(8, "Disk quota exceeded")), DISK_FULL),
    (WriteError(NO_SPACE, 1, {"index": 0, **answer(1, NO_SPACE)}), DISK_FULL),
    (BulkWriteError({"writeErrors": [{"index": 3, **answer(1, PANIC)}]}), CANNOT_WRITE),
    (BulkWriteError({"writeErrors": [], "writeConcernErrors": [answer(14031, "")]}), DISK_FULL),
]


@pytest.mark.parametrize(("error", "reason"), ANSWERS)
async def test_a_database_that_cannot_write_is_away(
    error: PyMongoError, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LAST_FAILURE, "reason", None)
    assert is_outage(error)
    with pytest.raises(StoreUnavailableError) as refused:
        async with store_errors():
            raise error
    assert (refused.value.status, refused.value.retryable, refused.value.advice) == (503, True, reason)
    assert LAST_FAILURE.reason == reason


@pytest.mark.parametrize("code", [1, 11000, 9])
async def test_other_refusals_are_no_outage(code: int) -> None:
    error = OperationFailure("it is wrong", code, answer(code, "it is wrong"))
    assert not is_outage(error)
    with pytest.raises(OperationFailure):
        async with store_errors():
            raise error
    assert LAST_FAILURE.reason is None
