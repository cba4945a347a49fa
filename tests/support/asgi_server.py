"""A uvicorn server for one ASGI application, in the event loop of the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn

START_SECONDS = 20.0


@asynccontextmanager
async def serving_asgi(application: Any, **options: Any) -> AsyncIterator[tuple[int, uvicorn.Server]]:
    """Serve on a free port of 127.0.0.1, with ``options`` of ``uvicorn.Config``.

    Yields:
        The port and the server, which ends with the block.
    """
    config = uvicorn.Config(
        application,
        port=0,
        ws="websockets-sansio",
        timeout_graceful_shutdown=1,
        log_config=None,
        access_log=False,
        lifespan="off",
        **options,
    )
    server = uvicorn.Server(config)
    server.capture_signals = suppress  # type: ignore[method-assign, assignment] # they are those of the tests
    running = asyncio.create_task(server.serve())
    async with asyncio.timeout(START_SECONDS):
        while not server.started:
            await asyncio.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1], server
    finally:
        server.should_exit = True
        await running
