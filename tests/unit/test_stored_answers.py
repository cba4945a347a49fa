"""Answers of webhooks are stored only if a setting switches that on."""

import pytest
from msgspec import UNSET

from app.contracts.callers import ADMIN, Caller
from app.contracts.integration_commands import RegistrationCommand
from app.services.integrations.sending import MAX_STORED_ANSWER
from config.settings import load_settings
from tests.support.fake_transports import answer
from tests.support.rig import rig
from tests.support.waiting import eventually

ROOT = Caller("root", scopes=frozenset({ADMIN}))


@pytest.mark.parametrize("store_answers", [False, True])
async def test_answers_are_stored_only_if_that_is_switched_on(store_answers: bool) -> None:
    there = await rig(store_answers=store_answers)
    there.webhooks.script("svc", answer(500, "no" * MAX_STORED_ANSWER))
    letters = there.service.integrations.letters
    async with there.service:
        registration = RegistrationCommand(url="https://svc.example/events")
        await there.service.integrations.administration.register("svc", registration, ROOT)
        await there.flows.start_flow("ada", "loop")
        page = await eventually(
            lambda: letters.list_failing("svc", after=None, limit=1, caller=ROOT),
            lambda page: bool(page.items),
        )
    (attempt,) = page.items[0].attempts
    assert attempt.status == 500
    if store_answers:
        assert attempt.body is not UNSET
        assert attempt.body.startswith('"nono')
        assert len(attempt.body) == MAX_STORED_ANSWER
    else:
        assert attempt.body is UNSET


@pytest.mark.parametrize(("given", "stored"), [(None, False), ("true", True), ("false", False)])
def test_the_setting(monkeypatch: pytest.MonkeyPatch, given: str | None, stored: bool) -> None:
    if given is not None:
        monkeypatch.setenv("FLOW_SERVICES_STORE_ANSWERS", given)
    assert load_settings().services_store_answers is stored
