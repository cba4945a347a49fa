"""Transitions a second, their times, and what each costs every process.

The service beside the floor, and beside itself without encryption at rest.
"""

import aiohttp

from bench.common import (
    USERS,
    Meter,
    Report,
    Result,
    Subject,
    database_url,
    embedded,
    measure,
    print_comparison,
    subjects,
)


async def run(report: Report, requests: int, rounds: int) -> None:
    """Print a table, and the ratio of the medians."""
    with embedded() as (servers, settings, folder), subjects(settings, folder, plain=True) as all_three:
        meter = Meter(servers, database_url(settings))
        async with aiohttp.ClientSession() as http:
            for subject in all_three:
                await subject.ready(http)
                await subject.post_all(http, list(subject.tokens), 16, "start", {})
        for n in (1, 64):
            await _compare(report, all_three, meter, n, requests, rounds)


async def _compare(
    report: Report, started: list[Subject], meter: Meter, n: int, requests: int, rounds: int
) -> None:
    print(f"\n{n} in flight, {requests} transitions over {USERS} users, medians of {rounds} rounds in turn")
    results: dict[str, list[Result]] = {subject.name: [] for subject in started}
    for seed in range(rounds):
        for subject in started if seed % 2 == 0 else reversed(started):  # the second of two costs more
            results[subject.name].append(await measure(subject, meter, n, requests, seed))
            print(".", end="", flush=True)
    print()
    print_comparison(report, f"{n} in flight", results["floor"], results["service"])
    part = f"{n} in flight, encryption at rest"
    print(f"\n{part}")
    print_comparison(report, part, results["plain"], results["service"], ("plain", "service"))
