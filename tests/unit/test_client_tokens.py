"""The token callback of the Python client, without a server: the client connects only with a token."""

import asyncio
from typing import NoReturn

import pytest

from realtime.client import FlowClient, FlowClientError
from realtime.client.errors import unreachable

NOWHERE = "http://127.0.0.1:9"


@pytest.mark.expected_logs("the token callback failed: CancelledError")
async def test_a_callback_that_is_cancelled_does_not_end_the_client() -> None:
    requested = asyncio.Semaphore(0)

    async def token() -> NoReturn:
        requested.release()
        raise asyncio.CancelledError

    async with FlowClient(NOWHERE, token) as client, asyncio.timeout(20):
        call = asyncio.create_task(client.state("loop", deadline=60))
        for _ in range(2):
            await requested.acquire()
        call.cancel()
        with pytest.raises(FlowClientError, match="The token callback failed: CancelledError"):
            await client.state("loop", deadline=0.01)


def test_a_cause_is_one_line() -> None:
    assert unreachable(NOWHERE, ValueError("400:\n  Bad\n\n  line")).details["cause"] == "400: Bad line"
