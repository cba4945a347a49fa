"""The command line of the benchmarks: ``python -m bench NAME [--requests N] [--rounds N]``."""

import argparse
import asyncio
from pathlib import Path

from bench import batch, definitions, deliveries, evaluations, growth, instances, live, start, transition
from bench.common import Report


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    names = [
        "transition",
        "growth",
        "batch",
        "live",
        "definitions",
        "evaluations",
        "start",
        "instances",
        "deliveries",
    ]
    parser.add_argument("what", choices=names)
    parser.add_argument("--requests", type=int, default=2000, help="transitions a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--states", type=int, nargs="+", default=growth.STATES, help="of growth")
    parser.add_argument("--records", type=int, default=growth.RECORDS, help="of growth; 0: no more")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    given = parser.parse_args()
    report = Report(given.what)
    match given.what:
        case "transition":
            asyncio.run(transition.run(report, given.requests, given.rounds))
        case "growth":
            asyncio.run(growth.run(report, given.requests, given.rounds, given.states, given.records))
        case "batch":
            asyncio.run(batch.run(report, given.rounds))
        case "live":
            asyncio.run(live.run(report, given.rounds))
        case "definitions":
            asyncio.run(definitions.run(report, given.rounds))
        case "evaluations":
            evaluations.run(report, given.requests)
        case "instances":
            asyncio.run(instances.run(report, given.requests, given.rounds))
        case "deliveries":
            asyncio.run(deliveries.run(report, given.requests, given.rounds))
        case "start":
            start.run(report, given.rounds)
    if given.json:
        report.write(given.json)


main()
