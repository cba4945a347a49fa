"""The meaning of an answer to a webhook request."""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from app.contracts.deliveries import FailureReason
from app.contracts.errors import InvalidRequestError, cut
from app.contracts.ports.transports import WebhookAnswer
from app.contracts.state import Payload
from app.services.integrations.breaker import Result

SLOW_DOWN_STATUSES = frozenset({429, 502, 504})
GONE = 410
MAX_REASON = 200
MAX_TRANSITION = 64
CONTROL_HEADER = "webhook-delivery"

Action = Literal["done", "retry", "give_up", "disable"]
"""``give_up``: the receiver refuses this event for good. ``disable``: it wants no events any more."""


class AnsweredTransition(Struct, frozen=True):
    """The transition with which a receiver answered, which the state runs at once."""

    transition: str
    payload: Payload | UnsetType = UNSET


class Verdict(Struct, frozen=True, kw_only=True):
    """The meaning of an answer.

    Attributes:
        action: The next step for the event.
        reason: The side that failed, None after a success.
        result: The outcome for the breaker; None if it does not count, as the failure is ours.
        error: The failure as a text, "" after a success.
        retry_after: The seconds that the receiver asks to wait for.
        answered: The transition that the receiver answered.
        refused: The code of the error for an answer that cannot be read as a transition.
    """

    action: Action
    reason: FailureReason | None = None
    result: Result | None = None
    error: str = ""
    retry_after: float | None = None
    answered: AnsweredTransition | None = None
    refused: str | UnsetType = UNSET


REFUSED = "the receiver refused the event for good"
"""The beginning of the failure of such an event; a text of the receiver may follow."""


def judge(answer: WebhookAnswer) -> Verdict:
    """Return the meaning of an answer, or of its absence."""
    if answer.failure is not None or answer.status is None:
        return _judge_absence(answer)
    control = answer.headers.get(CONTROL_HEADER, "").strip().lower()
    if control == "disable" or answer.status == GONE:
        why = "the receiver answered 410 Gone" if answer.status == GONE else "the receiver asked for it"
        return Verdict(action="disable", reason="receiver", result="success", error=why)
    body = _read_object(answer)
    final = _final_reason(body)
    if control == "abort-message" or final is not None:
        why = REFUSED
        if final:
            why = f"{why}: {cut(final, MAX_REASON)}"
        return Verdict(action="give_up", reason="receiver", result="success", error=why)
    if 200 <= answer.status < 300:
        return _judge_success(answer, body)
    return _judge_failure(answer, answer.status)


def _judge_absence(answer: WebhookAnswer) -> Verdict:
    reason: FailureReason = answer.failure or "internal"
    if reason == "too_large":
        return Verdict(action="give_up", reason=reason, error=answer.error)
    return Verdict(
        action="retry",
        reason=reason,
        result="no_answer" if reason == "receiver" else None,
        error=answer.error,
        retry_after=answer.retry_after,
    )


def _judge_success(answer: WebhookAnswer, body: Any) -> Verdict:
    if body is None:
        return Verdict(action="done", result="success")
    if body is UNSET:  # it claims to be JSON and is none, or too long
        return Verdict(action="done", result="success", refused=InvalidRequestError.code)
    name, payload = body.get("transition"), body.get("payload", UNSET)
    if name is None:
        return Verdict(action="done", result="success")
    is_name = isinstance(name, str) and 0 < len(name) <= MAX_TRANSITION
    if not is_name or not (payload is UNSET or payload is None or isinstance(payload, dict)):
        return Verdict(action="done", result="success", refused=InvalidRequestError.code)
    answered = AnsweredTransition(name, UNSET if payload is None else payload)
    return Verdict(action="done", result="success", answered=answered)


def _judge_failure(answer: WebhookAnswer, status: int) -> Verdict:
    error = f"the receiver answered {status}"
    if 300 <= status < 400:
        error = f"{error}; redirects are not followed"
    return Verdict(
        action="retry",
        reason="receiver",
        result="slow_down" if status in SLOW_DOWN_STATUSES else "failure",
        error=error,
        retry_after=answer.retry_after,
    )


def _read_object(answer: WebhookAnswer) -> Any:
    """Return the body if it is a JSON object, None if it is something else, UNSET if it cannot be read."""
    text = answer.body.strip()
    if not text.startswith(b"{"):
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UNSET if "json" in answer.headers.get("content-type", "").lower() else None


def _final_reason(body: Any) -> str | None:
    """Return the reason in ``{"error": {"final": true, "reason": "…"}}``; None for any other body."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or error.get("final") is not True:
        return None
    reason = error.get("reason")
    return reason if isinstance(reason, str) else ""
