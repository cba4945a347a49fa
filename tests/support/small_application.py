"""An ASGI application that loads nothing, for tests of what runs workers."""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]


async def application(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Answer with the process id; first hold up all threads for as many additions as the query says."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    sum(range(int(scope["query_string"] or 0)))  # in C: no other thread of the process runs meanwhile
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


async def dying_application(scope: Message, receive: object, send: object) -> None:
    """End the worker as soon as it starts."""
    os._exit(7)
