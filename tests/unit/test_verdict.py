"""The meaning of answers to webhook requests."""

from typing import Any

import pytest
from msgspec import UNSET

from app.contracts.ports.transports import WebhookAnswer
from app.services.integrations.verdict import AnsweredTransition, judge
from tests.support.fake_transports import NO_ANSWER, answer


@pytest.mark.parametrize(
    ("given", "action", "result"),
    [
        (answer(200), "done", "success"),
        (answer(204), "done", "success"),
        (answer(299), "done", "success"),
        (answer(300), "retry", "failure"),
        (answer(301), "retry", "failure"),
        (answer(304), "retry", "failure"),
        (answer(400), "retry", "failure"),
        (answer(404), "retry", "failure"),
        (answer(410), "disable", "success"),
        (answer(429), "retry", "slow_down"),
        (answer(500), "retry", "failure"),
        (answer(502), "retry", "slow_down"),
        (answer(503), "retry", "failure"),
        (answer(504), "retry", "slow_down"),
        (answer(100), "retry", "failure"),
        (NO_ANSWER, "retry", "no_answer"),
        (answer(200, webhook_delivery="disable"), "disable", "success"),
        (answer(500, webhook_delivery=" Disable "), "disable", "success"),
        (answer(200, webhook_delivery="abort-message"), "give_up", "success"),
        (answer(500, webhook_delivery="abort-message"), "give_up", "success"),
        (answer(200, webhook_delivery="other"), "done", "success"),
        (answer(500, {"error": {"final": True}}), "give_up", "success"),
        (answer(200, {"error": {"final": True, "reason": 7}}), "give_up", "success"),
        (answer(500, {"error": {"final": False}}), "retry", "failure"),
        (answer(500, {"error": {"final": "yes"}}), "retry", "failure"),
        (answer(500, {"error": "final"}), "retry", "failure"),
        (answer(500, ["final"]), "retry", "failure"),
        (WebhookAnswer(failure="internal", error="encoding"), "retry", None),
        (WebhookAnswer(failure="refused_address", error="private"), "retry", None),
        (WebhookAnswer(failure="too_large", error="too large"), "give_up", None),
        (WebhookAnswer(), "retry", None),
    ],
)
def test_actions(given: WebhookAnswer, action: str, result: str | None) -> None:
    verdict = judge(given)
    assert (verdict.action, verdict.result) == (action, result)


@pytest.mark.parametrize(
    ("given", "reason", "error"),
    [
        (answer(500), "receiver", "the receiver answered 500"),
        (answer(301), "receiver", "the receiver answered 301; redirects are not followed"),
        (answer(410), "receiver", "the receiver answered 410 Gone"),
        (answer(200), None, ""),
        (NO_ANSWER, "receiver", NO_ANSWER.error),
        (WebhookAnswer(failure="refused_address", error="private"), "refused_address", "private"),
        (WebhookAnswer(), "internal", ""),
        (
            answer(500, {"error": {"final": True, "reason": "x" * 999}}),
            "receiver",
            "the receiver refused the event for good: " + "x" * 199 + "…",
        ),
    ],
)
def test_reasons(given: WebhookAnswer, reason: str | None, error: str) -> None:
    assert (judge(given).reason, judge(given).error) == (reason, error)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_the_receiver_asks_to_wait(status: int) -> None:
    assert judge(answer(status, retry_after="30")).retry_after == 30


@pytest.mark.parametrize(
    ("body", "answered", "refused"),
    [
        ({"transition": "pay"}, AnsweredTransition("pay"), UNSET),
        ({"transition": "pay", "payload": None}, AnsweredTransition("pay"), UNSET),
        ({"transition": "pay", "payload": {"sum": 5}}, AnsweredTransition("pay", {"sum": 5}), UNSET),
        ({"received": True}, None, UNSET),
        ({"transition": None}, None, UNSET),
        (["transition"], None, UNSET),
        ("ok", None, UNSET),
        ({"transition": 7}, None, "INVALID_REQUEST"),
        ({"transition": ""}, None, "INVALID_REQUEST"),
        ({"transition": "x" * 65}, None, "INVALID_REQUEST"),
        ({"transition": "pay", "payload": [1]}, None, "INVALID_REQUEST"),
    ],
)
def test_answered_transitions(body: Any, answered: AnsweredTransition | None, refused: Any) -> None:
    verdict = judge(answer(200, body))
    assert (verdict.action, verdict.answered, verdict.refused) == ("done", answered, refused)
    assert judge(answer(500, body)).answered is None, "of successes alone"


@pytest.mark.parametrize(
    ("headers", "body", "refused"),
    [
        ({"content-type": "application/json"}, b'{"transition": "pa', "INVALID_REQUEST"),
        ({"content-type": "application/json"}, b'{"a": ' * 100_000, "INVALID_REQUEST"),
        ({"content-type": "text/plain"}, b"{ thanks }", UNSET),
        ({"content-type": "application/json"}, b"\xff\xfe", UNSET),
    ],
)
def test_answers_that_are_not_json(headers: dict[str, str], body: bytes, refused: Any) -> None:
    verdict = judge(WebhookAnswer(status=200, headers=headers, body=body))
    assert (verdict.action, verdict.refused) == ("done", refused)
