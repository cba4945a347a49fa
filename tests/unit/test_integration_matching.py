"""The changes that concern an integration, as tables."""

from typing import Any, get_args

import pytest
from msgspec import UNSET, structs

from app.contracts.integration import EventType
from app.contracts.record import HistoryRecord, Kind
from app.services.integrations.matching import concerns, enters_step, leaves_own_step, waits_at_own_step
from tests.support.integrations import at_step, change, checkout, integration

FLOW = checkout()
PAY = change("transitioned", "cart", "pay")

TYPES: list[tuple[str, HistoryRecord, EventType | None]] = [
    ("user", change("started", "", "cart"), "flow.step.entered"),
    ("payment", change("started", "", "cart"), "flow.started"),
    ("payment", PAY, "flow.step.entered"),
    ("payment", change("transitioned", "pay", "pay"), "flow.step.entered"),
    ("user", PAY, "flow.transition"),
    ("parcels", change("transitioned", "pay", "ship"), "flow.step.entered"),
    ("other", change("transitioned", "pay", "ship", service="other"), "flow.step.entered"),
    ("notification", change("transitioned", "ship", "done"), "flow.completed"),
    ("user", change("transitioned", "ship", "done"), "flow.completed"),
    ("payment", change("undone", "cart", "pay"), "flow.step.entered"),
    ("user", change("undone", "cart", "pay"), "flow.undone"),
    ("user", change("reset", "pay", "cart"), "flow.step.entered"),
    ("payment", change("reset", "pay", "cart"), "flow.reset"),
    ("payment", change("set", "pay", "pay"), "flow.step.entered"),
    ("payment", change("set", "pay", "pay", status="paused"), "flow.step.entered"),
    ("user", change("set", "pay", "ship"), "flow.set"),
    ("user", change("set", "pay", "done"), "flow.completed"),
    ("payment", change("paused", "pay", "pay", status="paused"), "flow.paused"),
    ("payment", change("resumed", "pay", "pay"), "flow.resumed"),
    ("payment", change("resumed", "done", "done"), "flow.completed"),
    ("payment", change("cleared", "pay", "pay", status="cleared"), "flow.cleared"),
    ("payment", change("expired", "pay", "pay", status="expired"), "flow.expired"),
    ("payment", change("erased", "pay", "pay", status="cleared"), "flow.erased"),
    ("payment", change("migrated", "pay", "pay"), "flow.migrated"),
    ("payment", change("migrated", "cart", "pay"), "flow.step.entered"),
    ("user", change("migrated", "pay", "done"), "flow.completed"),
    ("payment", change("recovered", "", "pay"), "flow.recovered"),
    ("payment", change("recovered", "done", "done"), "flow.recovered"),
    ("payment", change("assigned", "pay", "pay"), "flow.participants"),
    ("payment", change("claimed", "pay", "pay"), "flow.participants"),
    ("payment", change("released", "pay", "pay"), "flow.participants"),
    ("payment", change("voted", "pay", "pay"), "flow.participants"),
    ("payment", change("withdrawn", "pay", "pay"), "flow.participants"),
    ("payment", change("pseudonymised", "done", "done"), "flow.participants"),
    ("payment", change("pseudonymised", "pay", "pay", status="cleared"), None),
    ("stranger", PAY, None),
    ("parcels", change("transitioned", "pay", "ship", service="other"), None),
]


@pytest.mark.parametrize(("alias", "record", "expected"), TYPES)
def test_the_type_of_the_event_of_a_change(
    alias: str, record: HistoryRecord, expected: EventType | None
) -> None:
    assert concerns(integration(alias), record, FLOW) == expected


def test_every_kind_of_change_has_a_row() -> None:
    assert {record.kind for _, record, _ in TYPES} == set(get_args(Kind)) - {"refused"}


def test_every_type_of_event_occurs() -> None:
    assert {expected for _, _, expected in TYPES} == {*get_args(EventType), None}


def test_a_restarted_state_enters_its_step_but_a_rebuilt_one_was_there() -> None:
    rebuilt = structs.replace(change("recovered", "", "cart"), payload={"action": "rebuilt"})
    restarted = structs.replace(rebuilt, payload={"action": "restarted"})
    assert concerns(integration("user"), rebuilt, FLOW) == "flow.recovered"
    assert concerns(integration("user"), restarted, FLOW) == "flow.step.entered"
    assert concerns(integration("user"), structs.replace(restarted, payload=UNSET), FLOW) == "flow.recovered"


def test_a_refused_attempt_concerns_nobody() -> None:
    refused = structs.replace(change("refused", "pay", "pay"), after=UNSET, success=False)
    assert concerns(integration(), refused, FLOW) is None
    assert not leaves_own_step("payment", refused, FLOW)
    assert not enters_step(refused)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "flow.step.entered"),
        ({"events": ("flow.transition",)}, "flow.transition"),
        ({"events": ("flow.transition", "flow.step.entered")}, "flow.step.entered"),
        ({"events": ("flow.completed",)}, None),
        ({"events": ()}, None),
        ({"flows": ("checkout",)}, "flow.step.entered"),
        ({"flows": ("other",)}, None),
        ({"flows": ()}, None),
        ({"steps": ("pay",)}, "flow.step.entered"),
        ({"steps": ("cart",)}, "flow.step.entered"),
        ({"steps": ("checkout/pay",)}, "flow.step.entered"),
        ({"steps": ("other/pay",)}, None),
        ({"steps": ("ship",)}, None),
        ({"steps": ("",)}, None),
        ({"enabled": False}, "flow.step.entered"),
    ],
)
def test_filters_of_a_registration(filters: dict[str, Any], expected: EventType | None) -> None:
    assert concerns(integration(**filters), PAY, FLOW) == expected


def test_a_listed_flow_needs_no_step_of_the_integration() -> None:
    assert concerns(integration("audit", flows=("checkout",)), PAY, FLOW) == "flow.transition"


def test_a_start_is_no_change_from_a_step_without_a_name() -> None:
    started = change("started", "", "cart")
    assert concerns(integration("user", steps=("checkout/",)), started, FLOW) is None


def test_the_completion_is_a_transition_for_those_who_do_not_receive_completions() -> None:
    completed = change("transitioned", "ship", "done")
    only = integration("user", events=("flow.transition", "flow.step.entered"))
    assert concerns(only, completed, FLOW) == "flow.transition"
    own = integration("notification", events=("flow.transition", "flow.step.entered"))
    assert concerns(own, completed, FLOW) == "flow.step.entered"


def test_an_unreadable_flow_concerns_those_who_list_it() -> None:
    assert concerns(integration(), PAY, None) is None
    assert concerns(integration(flows=("checkout",)), PAY, None) == "flow.transition"
    assert not waits_at_own_step("payment", at_step("pay"), None)


@pytest.mark.parametrize(
    ("alias", "record", "waits", "enters", "leaves"),
    [
        ("payment", PAY, True, True, False),
        ("payment", change("claimed", "pay", "pay"), True, False, False),
        ("payment", change("resumed", "pay", "pay"), True, False, False),
        ("payment", change("migrated", "pay", "pay"), True, False, False),
        ("payment", change("paused", "pay", "pay", status="paused"), False, False, True),
        ("payment", change("transitioned", "pay", "ship"), False, True, True),
        ("payment", change("cleared", "pay", "pay", status="cleared"), False, False, True),
        ("parcels", change("transitioned", "pay", "ship"), True, True, False),
        ("parcels", change("transitioned", "ship", "done"), False, True, True),
        ("notification", change("transitioned", "ship", "done"), False, True, True),
        ("user", change("transitioned", "pay", "ship"), False, True, False),
        ("payment", change("migrated", "gone", "unknown"), False, True, False),
    ],
)
def test_waiting_at_an_own_step(
    alias: str, record: HistoryRecord, *, waits: bool, enters: bool, leaves: bool
) -> None:
    assert record.after is not UNSET
    assert waits_at_own_step(alias, record.after, FLOW) is waits
    assert enters_step(record) is enters
    assert leaves_own_step(alias, record, FLOW) is leaves
