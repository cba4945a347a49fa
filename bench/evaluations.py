"""The estimates of guards and payload schemas against the processor time that their evaluation takes.

Random guards and schemas, by seed: those over their limits are refused from the estimate alone. An estimate
is wrong where the time is a multiple of it; the tolerance of the circuit breaker is ``TOLERANCE``.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from app.contracts.callers import Caller
from app.flow.conditions.evaluation_breaker import TOLERANCE
from app.flow.conditions.guard_inputs import MAX_GUARD_COST, GuardInputs
from app.flow.conditions.guards import Guard, fault_of_guard
from app.flow.conditions.payload_schemas import MAX_STEPS, STEP_SECONDS, faults_of_schema, payload_faults
from bench.common import Report
from tests.support.random_evaluations import Expressions, Schemas
from tests.support.samples import fresh

SHOWN = 5
LEAST_SECONDS = 0.002
"""Of a bound: shorter times are those of the clock and of small objects."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)
REPEATS = 3


def run(report: Report, subjects: int) -> None:
    """Print how many of ``subjects`` guards and schemas were evaluated, and those with the worst ratios."""
    _print(report, "guards, time : estimate", [each for seed in range(subjects) for each in _guard(seed)])
    _print(
        report, "schemas, time : bound", [each for seed in range(subjects // 10) for each in _schema(seed)]
    )


def _guard(seed: int) -> list[tuple[float, float, str]]:
    expressions = Expressions(seed)
    guard, payload = expressions.guard(), expressions.payload()
    if fault_of_guard(guard) is not None:
        return []
    made = Guard(guard)
    bound = min(made.cost(GuardInputs(fresh(), payload, Caller("ada"), NOW)), MAX_GUARD_COST) / 1e9
    took = _fastest(lambda: made.refusal(GuardInputs(fresh(), payload, Caller("ada"), NOW)))
    return [(took / max(bound, LEAST_SECONDS), took, f"seed {seed}: {guard[:80]}")]


def _schema(seed: int) -> list[tuple[float, float, str]]:
    schemas = Schemas(seed)
    schema, payload = {"properties": {"l": schemas.schema()}}, schemas.payload()
    if faults_of_schema(schema):
        return []
    payload_faults(schema, {})  # compiles it
    took = _fastest(lambda: payload_faults(schema, payload))
    return [(took / (MAX_STEPS * STEP_SECONDS), took, f"seed {seed}: {str(schema)[:80]}")]


def _fastest(work: Callable[[], Any]) -> float:
    found = []
    for _ in range(REPEATS):
        began = time.thread_time()
        work()
        found.append(time.thread_time() - began)
    return min(found)


def _print(report: Report, title: str, rows: list[tuple[float, float, str]]) -> None:
    rows.sort(reverse=True)
    beyond = sum(ratio > TOLERANCE for ratio, _, _ in rows)
    print(f"{title}: {len(rows)} evaluated, {beyond} above {TOLERANCE}; the worst:")
    for ratio, seconds, subject in rows[:SHOWN]:
        print(f"{ratio:8.2f}  {seconds * 1000:8.1f} ms  {subject}")
        report.add(title, ratio=ratio, ms=seconds * 1000, subject=subject)
