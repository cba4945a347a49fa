"""The service answers as its own OpenAPI document says: cases of Schemathesis against a real process."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
import schemathesis.specs.openapi.checks
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from app.contracts.callers import ADMIN, READ, SERVICE, USE
from app.contracts.errors import AddressTooLongError
from tests.support.long_form import form
from tests.support.serving import Serving

CASES = form("Schemathesis: cases", short=200, long=2000)
ENDLESS = {"streamFlowState", "streamServiceEvents"}
"""Answers that do not end; tests/e2e/test_streams.py and test_service_feed.py have tests of them."""
KNOWN = {
    "flow_id": ["user-onboarding", "sign-in", "nowhere"],
    "transition": ["start", "complete", "nowhere"],
    "alias": ["desk", "nobody"],
}
"""Values of path parameters that lead somewhere, which generated texts hardly ever do."""
SCOPES: list[tuple[str, ...]] = [(USE,), (READ,), (SERVICE,), (ADMIN,)]
STATEFUL = {"positive_data_acceptance"}
"""Left out, as it cannot know the stored states: a well-formed request may meet 404 or 409. The other checks
compare these answers with the document."""
TIMEOUT_SECONDS = 20.0
SEED = 1


@pytest.fixture(scope="module")
async def prepared(serving: Serving) -> Serving:
    """The service, with states and a registered service."""
    async with serving.http("conformance", ADMIN) as http:
        registered = await http.put("/api/admin/services/desk", json={})
        assert registered.status_code in (200, 201), registered.text
        for flow in ("user-onboarding", "sign-in"):
            started = await http.post(f"/api/flow/{flow}/start", json={})
            assert started.status_code in (200, 201), started.text
    return serving


def operations(schema: Any) -> Iterator[Any]:
    """The operations of the document whose answers end."""
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.definition.raw["operationId"] not in ENDLESS:
            yield operation


def cases(operation: Any) -> "st.SearchStrategy[Any]":
    """Valid and invalid requests, half of them with path parameters that lead somewhere."""
    valid, invalid = (
        operation.as_strategy(generation_mode=mode)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    )
    known = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in KNOWN.items()})
    return st.tuples(st.one_of(valid, invalid), st.none() | known, st.sampled_from(SCOPES)).map(_placed)


def _placed(drawn: tuple[Any, dict[str, str] | None, tuple[str, ...]]) -> tuple[Any, tuple[str, ...]]:
    case, known, scopes = drawn
    for name, value in (known or {}).items():
        if name in (case.path_parameters or {}):
            case.path_parameters[name] = value
    return case, scopes


def _has_credential(case: Any) -> bool:
    return any(name.lower() == "authorization" for name in case.headers or ())


async def test_every_answer_is_as_the_document_says(prepared: Serving) -> None:
    schema = schemathesis.openapi.from_url(f"{prepared.url}/openapi.json")
    listed = list(operations(schema))
    share = max(1, -(-CASES // len(listed)))
    tokens = {scopes: prepared.token("conformance", *scopes) for scopes in SCOPES}
    excluded = [check for check in CHECKS.get_all() if check.__name__ in STATEFUL]
    # Schemathesis does not count 414 among refusals.
    of_long = [*excluded, *(each for each in CHECKS.get_all() if each.__name__ == "negative_data_rejection")]
    failures: list[str] = []
    statuses: Counter[int] = Counter()

    def attack(operation: Any) -> None:
        @settings(
            max_examples=share,
            deadline=None,
            phases=[Phase.generate],
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(cases(operation))
        def one(drawn: tuple[Any, tuple[str, ...]]) -> None:
            case, scopes = drawn
            headers = {} if _has_credential(case) else {"Authorization": f"Bearer {tokens[scopes]}"}
            answer = case.call(headers=headers, timeout=TIMEOUT_SECONDS)
            statuses[answer.status_code] += 1
            try:
                without = of_long if answer.status_code == AddressTooLongError.status else excluded
                case.validate_response(answer, excluded_checks=without, headers=headers)
            except BaseExceptionGroup as group:
                failures.extend(f"{operation.label}: {each}" for each in group.exceptions)
            except AssertionError as failure:
                failures.append(f"{operation.label}: {failure}")

        one()

    for operation in listed:
        await asyncio.to_thread(attack, operation)
    assert not failures, "\n\n".join([f"{len(failures)} failures", *failures[:20]])
    assert sum(statuses.values()) >= CASES * 0.9
    assert not [status for status in statuses if status >= 500]
    assert {200, 404} <= set(statuses), "some requests led somewhere, and some nowhere"
