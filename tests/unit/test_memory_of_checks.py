"""Checks of values take memory in proportion to the value, however many faults repeat its parts."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from app.contracts.commands import SetCommand
from app.contracts.flow import Flow
from app.flow.conditions.payload_schemas import payload_faults
from app.flow.validation import check_flow
from app.flow.values.struct_errors import faults_of

LONG = "x" * 200_000
FLOW = {"flow": "f", "initialStep": "a"}
MAX_BYTES = 250_000_000
"""Without a bound, each of these takes more than twice as much."""


def below_a_long_step() -> object:
    return check_flow(
        {**FLOW, "steps": {LONG: {"step": "a", "transitions": {f"t{n}": {"stp": ""} for n in range(2000)}}}}
    )


def many_roles() -> object:
    return faults_of({**FLOW, "roles": [1] * 250_000, "steps": {}}, Flow)


def many_pointers() -> object:
    return faults_of({"step": "a", "remove": [1] * 250_000}, SetCommand)


def below_a_long_name_of_a_payload() -> object:
    schema = {"additionalProperties": {"items": {"type": "string"}}}
    return payload_faults(schema, {"x" * 30_000: [1] * 15_000})


def at_a_large_payload() -> object:
    schema = {"allOf": [{"additionalProperties": {"maxLength": number}} for number in range(300)]}
    return payload_faults(schema, {"a": {"l": ["x" * 3000] * 10}, **{f"k{n}": "x" * 30 for n in range(1000)}})


CASES: list[Callable[[], object]] = [
    below_a_long_step,
    many_roles,
    many_pointers,
    below_a_long_name_of_a_payload,
    at_a_large_payload,
]


PROGRAM = f"""
import os, resource
from {__name__} import CASES
for case in CASES:
    if os.fork() == 0:  # its largest size is its own
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = case()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(case.__name__, len(found), after - before, flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[int, int]]:
    """The number of faults that each case found, and the KiB that it took meanwhile."""
    answer = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    lines = map(str.split, answer.stdout.splitlines())
    return {name: (int(found), int(kibibytes)) for name, found, kibibytes in lines}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_faults_do_not_multiply_the_value_in_memory(
    case: Callable[[], object], measured: dict[str, tuple[int, int]]
) -> None:
    found, kibibytes = measured[case.__name__]
    assert 1 <= found <= 100
    assert 0 < kibibytes * 1024 < MAX_BYTES


def test_a_long_name_hides_no_fault_behind_it() -> None:
    value: dict[str, Any] = {**FLOW, "roles": [1, 2], "steps": {"x" * 3000: {"step": 1}}}
    pointers = {fault.pointer for fault in faults_of(value, Flow)}
    assert {"/roles/0", "/roles/1"} <= pointers
    assert all(len(msgspec.json.encode(pointer)) < 2000 for pointer in pointers)
