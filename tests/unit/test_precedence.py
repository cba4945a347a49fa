"""Precedence of definitions: a table over everything that it depends on."""

from itertools import product
from typing import Any

import msgspec
import pytest
from msgspec import structs

from app.contracts.definition import FlowDefinition
from app.contracts.flow import Flow
from app.flow.versions.precedence import Decision, Offer, is_from_source, is_same_flow, precedence
from tests.support.samples import T0, flow_dict

FLOW = msgspec.convert(flow_dict(), Flow)
OTHER = msgspec.convert(flow_dict(title="Other"), Flow)
SOURCES = {"caller": "api", "source": "file:loop.json"}
UNKNOWN = (None, False, True)


def newest(kind: str, flow: Flow, *, retired: bool = False) -> FlowDefinition:
    return FlowDefinition(flow, 3, T0, "tests", SOURCES[kind], retired)


def offer(**changes: Any) -> Offer:
    usual = Offer(FLOW, overrides=False, creates=True, changed=True, since=2)
    return structs.replace(usual, **changes)


@pytest.mark.parametrize("creates", [True, False])
def test_a_flow_that_is_not_stored(creates: bool) -> None:
    expected = Decision.PUBLISH if creates else Decision.NOT_CREATED
    for overrides, changed, since in product((True, False), (True, False), (None, 0, 2)):
        found = offer(creates=creates, overrides=overrides, changed=changed, since=since)
        assert precedence(found, None, missing_above=False) is expected


@pytest.mark.parametrize(
    ("overrides", "flow", "retired", "expected"),
    [
        (False, FLOW, False, Decision.OUTRANKED),
        (False, OTHER, False, Decision.OUTRANKED),
        (False, OTHER, True, Decision.OUTRANKED),
        (True, FLOW, False, Decision.UP_TO_DATE),
        (True, FLOW, True, Decision.PUBLISH),
        (True, OTHER, False, Decision.PUBLISH),
        (True, OTHER, True, Decision.PUBLISH),
    ],
)
def test_over_a_version_of_a_caller(overrides: bool, flow: Flow, retired: bool, expected: Decision) -> None:
    stored = newest("caller", flow, retired=retired)
    for changed, since, creates, missing, known in product(
        (True, False), (None, 2), (True, False), (True, False), UNKNOWN
    ):
        found = offer(overrides=overrides, changed=changed, since=since, creates=creates)
        decision = precedence(found, stored, missing_above=missing, published_since=known)
        assert decision is expected, "nothing else counts"


@pytest.mark.parametrize(
    ("flow", "retired", "changed", "since", "known", "expected"),
    [
        (FLOW, False, True, 2, None, Decision.UP_TO_DATE),
        (FLOW, False, True, None, None, Decision.UP_TO_DATE),
        (FLOW, True, True, 2, None, Decision.UP_TO_DATE),
        (FLOW, True, False, None, None, Decision.UP_TO_DATE),
        (FLOW, True, True, None, None, Decision.PUBLISH),
        (OTHER, False, False, 2, None, Decision.UP_TO_DATE),
        (OTHER, False, False, None, None, Decision.UP_TO_DATE),
        (OTHER, False, True, None, None, Decision.PUBLISH),
        (OTHER, False, True, 2, None, Decision.NEEDS_HISTORY),
        (OTHER, False, True, 0, None, Decision.NEEDS_HISTORY),
        (OTHER, False, True, 2, True, Decision.UP_TO_DATE),
        (OTHER, False, True, 2, False, Decision.PUBLISH),
        (OTHER, True, True, 2, False, Decision.PUBLISH),
    ],
)
def test_over_a_version_of_a_source(
    flow: Flow, retired: bool, changed: bool, since: int | None, known: bool | None, expected: Decision
) -> None:
    stored = newest("source", flow, retired=retired)
    for overrides, creates in product((True, False), (True, False)):
        found = offer(changed=changed, since=since, overrides=overrides, creates=creates)
        assert precedence(found, stored, missing_above=False, published_since=known) is expected
        held = Decision.HELD_BACK if expected is Decision.PUBLISH else expected
        assert precedence(found, stored, missing_above=True, published_since=known) is held


def test_the_names_of_sources() -> None:
    assert is_from_source(newest("source", FLOW))
    assert is_from_source(structs.replace(newest("source", FLOW), source="remote:https://flows.example"))
    for name in ("api", "python", "import", "", "files"):
        assert not is_from_source(structs.replace(newest("caller", FLOW), source=name))


def test_the_order_of_steps_counts_and_prefabs_do_not() -> None:
    reordered = structs.replace(FLOW, steps=dict(reversed(FLOW.steps.items())))
    assert not is_same_flow(FLOW, reordered)
    assert is_same_flow(FLOW, structs.replace(FLOW, prefabs={"a": "own"}))
