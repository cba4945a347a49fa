"""Cost of definitions: reading a cached one, guards and schemas, and 10,000 of them in memory."""

import gc
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pymongo

from app.contracts.callers import Caller
from app.contracts.commands import StartCommand, TransitionCommand
from app.contracts.definition import FlowDefinition
from app.contracts.flow import Flow
from app.contracts.state import StateId
from app.flow import rules
from app.main import Backend
from bench.common import Report, embedded, in_flight
from config.settings import Settings
from tests.support.samples import PROGRAM

MANY = 10_000
USERS = 200
IN_FLIGHT = 16
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CALLER = Caller("ada", frozenset({"approver"}))
GUARD = "payload.amount >= 10 && 'approver' in user.roles && state.step == 'a'"
SCHEMA = {
    "type": "object",
    "required": ["amount", "reason"],
    "properties": {
        "amount": {"type": "integer", "minimum": 0},
        "reason": {"type": "string", "maxLength": 20_000},
        "mail": {"type": "string", "format": "email"},
        "lines": {"type": "array", "items": {"type": "object", "required": ["sku", "quantity"]}},
    },
}


def flow(slug: str, steps: int = 10, **transition: Any) -> dict[str, Any]:
    """A flow of some steps, each with a way on and a way round."""
    names = ["a", *(f"step-{n}" for n in range(1, steps))]
    return {
        "flow": slug,
        "initialStep": "a",
        "steps": {
            name: {
                "index": n,
                "step": name,
                "service": "bench",
                "title": f"Step {n} of {slug}",
                "transitions": {
                    "again": {"transition": "again", "step": name, **transition},
                    "next": {"transition": "next", "step": names[(n + 1) % steps]},
                },
            }
            for n, name in enumerate(names)
        },
    }


def defined(**transition: Any) -> FlowDefinition:
    """Return a published flow whose transition ``again`` has the given members."""
    converted = msgspec.convert(flow("checks", **transition), Flow)
    return FlowDefinition(converted, 1, NOW, "bench", "python")


async def run(report: Report, rounds: int) -> None:
    """Print tables."""
    _checks(report, rounds)
    with embedded() as (_, found, _):
        settings = found.model_copy(update={"mongo_database": "bench"})
        print(f"\nPublishing {MANY} definitions …", flush=True)
        async with Backend(settings).running():  # which makes the indexes
            _publish(settings)
        await _cached(report, settings, rounds)
        await _with_many(report, settings, rounds)


def _checks(report: Report, rounds: int) -> None:
    print("A decision of the rules, in process, microseconds of CPU (medians of rounds in turn)")
    subjects = {
        "bare": defined(),
        "guard": defined(guard=GUARD),
        "schema": defined(payloadSchema=SCHEMA),
        "both": defined(guard=GUARD, payloadSchema=SCHEMA),
    }
    payloads: dict[str, dict[str, Any]] = {
        "0.1 KB": {"amount": 12, "reason": "lunch", "mail": "ada@example.org"},
        "2 KB": {"amount": 12, "reason": "x", "lines": [{"sku": f"s{n}", "quantity": n} for n in range(80)]},
        "16 KB": {"amount": 12, "reason": "x" * 16_000},
    }
    print(f"{'payload':>10}" + "".join(f"{name:>10}" for name in subjects) + f"{'both-bare':>12}")
    for size, payload in payloads.items():
        found: dict[str, list[float]] = {name: [] for name in subjects}
        for _ in range(rounds):
            for name, definition in subjects.items():
                found[name].append(_decide(definition, payload))
        medians = {name: statistics.median(times) for name, times in found.items()}
        row = "".join(f"{value:10.1f}" for value in medians.values())
        print(f"{size:>10}{row}{medians['both'] - medians['bare']:12.1f}")
        report.add(f"decision, payload of {size}, CPU us", **medians)


def _decide(definition: FlowDefinition, payload: dict[str, Any], times: int = 3000) -> float:
    state = rules.start(definition, StateId(definition.flow.flow, "ada"), "e1", StartCommand(), NOW)
    command = TransitionCommand(payload=payload)
    began = time.process_time()
    for _ in range(times):
        rules.transition(definition, state, "again", command, NOW, CALLER)
    return (time.process_time() - began) / times * 1e6


def _publish(settings: Settings) -> None:
    assert settings.mongo_url is not None
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(settings.mongo_url.get_secret_value())
    database = client[settings.mongo_database]
    texts = [msgspec.json.encode(flow(f"flow-{n}")).decode() for n in range(MANY)]
    for first in range(0, MANY, 1000):
        database.flow_definitions.insert_many(
            [
                {
                    "_id": f"flow-{n}:1",
                    "flowId": f"flow-{n}",
                    "version": 1,
                    "definition": texts[n],
                    "createdAt": NOW,
                    "createdBy": "bench",
                    "source": "python",
                    "retired": False,
                }
                for n in range(first, first + 1000)
            ]
        )


async def _timed(read: Callable[[str], Awaitable[object]], slugs: list[str]) -> float:
    began = time.process_time()
    for slug in slugs:
        await read(slug)
    return (time.process_time() - began) / len(slugs) * 1e6


async def _cached(report: Report, settings: Settings, rounds: int) -> None:
    print(
        "\nReading a definition that is in memory, microseconds of CPU; the floor is a dict behind an await"
    )
    async with Backend(settings).running() as service:
        slugs = [f"flow-{n}" for n in range(MANY)]
        stored = {slug: await service.definitions.current(slug, PROGRAM) for slug in slugs}
        random.Random(1).shuffle(slugs)

        async def floor(slug: str) -> object:
            return stored[slug]

        async def newest(slug: str) -> object:
            return await service.definitions.current(slug, PROGRAM)

        async def pinned(slug: str) -> object:
            return await service.definitions.version(slug, 1, PROGRAM)

        found: dict[str, list[float]] = {"floor": [], "newest": [], "pinned": []}
        reads: dict[str, Callable[[str], Awaitable[object]]] = {
            "floor": floor,
            "newest": newest,
            "pinned": pinned,
        }
        for _ in range(rounds):
            for name, read in reads.items():
                found[name].append(await _timed(read, slugs))
    for name, times in found.items():
        print(f"{name:>10}{statistics.median(times):10.2f}")
        report.add(f"read in memory, {name}", cpuUs=statistics.median(times))


async def _with_many(report: Report, settings: Settings, rounds: int) -> None:
    print(
        f"\nA transition of a service with 1 and with {MANY} definitions in memory, medians of rounds in turn"
    )
    found: dict[int, list[tuple[float, float]]] = {1: [], MANY: []}
    for number in range(rounds):
        for many, results in found.items():
            results.append(await _transitions(settings, many, number))
            print(".", end="", flush=True)
    print(f"\n{'in memory':>12}{'CPU us':>10}{'p50 ms':>10}")
    for many, results in found.items():
        cpu, p50 = (statistics.median(column) for column in zip(*results, strict=True))
        print(f"{many:>12}{cpu:10.1f}{p50:10.2f}")
        report.add(f"transition with {many} definitions in memory", cpuUs=cpu, p50Ms=p50)


async def _transitions(settings: Settings, many: int, number: int) -> tuple[float, float]:
    gc.collect()
    async with Backend(settings).running() as service:
        flows = service.as_trusted()
        for n in range(many):
            await service.definitions.current(f"flow-{n}", PROGRAM)
        users = [f"u{number}-{many}-{n}" for n in range(USERS)]
        await in_flight(users, IN_FLIGHT, lambda user: flows.start_flow(user, "flow-0"))
        await service.background.relay.drain(10)
        began = time.process_time()
        times = await in_flight(
            users * 8, IN_FLIGHT, lambda user: flows.execute_transition(user, "flow-0", "next")
        )
        await service.background.relay.drain(10)
        cpu = (time.process_time() - began) / len(times) * 1e6
    return cpu, statistics.median(times)
