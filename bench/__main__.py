"""``python -m bench transition [--requests N] [--rounds N]``, ``python -m bench batch [--rounds N]``,
``python -m bench live [--rounds N]``, ``python -m bench definitions [--rounds N]``,
``python -m bench start [--rounds N]``."""

import argparse
import asyncio

from bench import batch, definitions, live, start, transition


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("what", choices=["transition", "batch", "live", "definitions", "start"])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.what == "batch":
        asyncio.run(batch.run(given.rounds))
    elif given.what == "live":
        asyncio.run(live.run(given.rounds))
    elif given.what == "definitions":
        asyncio.run(definitions.run(given.rounds))
    elif given.what == "start":
        start.run(given.rounds)
    else:
        asyncio.run(transition.run(given.requests, given.rounds))


main()
