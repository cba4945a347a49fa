"""Many Python clients in one process, for tests under load: ``python -m tests.support.swarm``.

Its first line on standard input is JSON: ``{"url": …, "flow": …, "tokens": {user: token}, "clients": N}``;
``url`` may be a list, and N clients (one for each user by default) are spread over the users and the
addresses in turn. It prints ``{"level": N}`` when all of them follow their user's state and miss nothing.

Then a line ``report`` prints one line, ``{"clients": […], "cpu": seconds}``, and ``end``, or the end of the
input, closes all. Of each client the report has its ``user``, what it ``held`` (epoch, revision, step;
null without a state), how many states were ``shown`` to it, whether one of them ``fell`` behind the one
before, whether it is ``level``, its ``stats``, and the ``error`` that its following ended with.
"""

import asyncio
import json
import sys
import time
from typing import Any

import msgspec
import uvloop

from realtime.client import FlowClient, FlowClientError


class Member:
    """One client, and the states that it received."""

    def __init__(self, url: str, user: str, token: str, flow: str) -> None:
        self.client = FlowClient(url, token, device=f"swarm of {user}"[:64])
        self.client.open()
        self.states = self.client.follow(flow)
        self._user = user
        self._shown = 0
        self._fell = False
        self._last: tuple[str, int] | None = None
        self._error: FlowClientError | None = None
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for state in self.states:
                self._shown += 1
                if state is not None:
                    position = (state.epoch, state.revision)
                    self._fell = self._fell or (self._last is not None and position <= self._last)
                    self._last = position
        except FlowClientError as error:
            self._error = error

    def report(self) -> dict[str, Any]:
        """Describe the states that it has received."""
        state = self.states.state
        held = None if state is None else {n: getattr(state, n) for n in ("epoch", "revision", "step")}
        return {
            "user": self._user,
            "held": held,
            "shown": self._shown,
            "fell": self._fell,
            "level": self.states.level,
            "stats": msgspec.to_builtins(self.client.stats),
            "error": None if self._error is None else str(self._error),
        }


def _members(order: dict[str, Any]) -> list[Member]:
    urls = order["url"] if isinstance(order["url"], list) else [order["url"]]
    users = list(order["tokens"])
    return [
        Member(urls[n % len(urls)], user, order["tokens"][user], order["flow"])
        for n in range(order.get("clients", len(users)))
        for user in [users[n % len(users)]]
    ]


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def main() -> None:
    """Run until the input ends the swarm."""
    lines = asyncio.StreamReader(limit=2**24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    members = _members(json.loads(await lines.readline()))
    await asyncio.gather(*(member.states.ready() for member in members))
    _print({"level": len(members)})
    while (word := (await lines.readline()).strip()) == b"report":
        _print({"clients": [member.report() for member in members], "cpu": time.process_time()})
    if word not in {b"end", b""}:
        raise SystemExit(f"neither report nor end: {word!r}")
    await asyncio.gather(*(member.client.close() for member in members))
    await asyncio.gather(*(member.reading for member in members))


if __name__ == "__main__":
    uvloop.run(main())
