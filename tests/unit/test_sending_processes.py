"""Only processes that can reach services send events to them; a command line is none."""

import asyncio

import pytest

from app.contracts.callers import ADMIN, Caller
from app.contracts.integration_commands import RegistrationCommand
from app.services.integrations import dispatch_loop, dispatcher
from tests.support.fake_transports import FakeWebhooks
from tests.support.rig import rig

ROOT = Caller("root", scopes=frozenset({ADMIN}))


async def test_events_of_a_process_that_sends_none_are_sent_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatcher, "REVIEW_SECONDS", 0.05)
    monkeypatch.setattr(dispatch_loop, "MIN_POLL_SECONDS", 0.05)
    there = await rig(sends_events=False)
    silent, there.webhooks = there.webhooks, FakeWebhooks()
    worker = there.make()
    async with there.service, worker:
        registration = RegistrationCommand(url="https://svc.example/events")
        await there.service.integrations.administration.register("svc", registration, ROOT)
        for count, user in enumerate(("ada", "bob", "eve"), 1):
            await there.flows.start_flow(user, "loop")
            async with asyncio.timeout(30):
                await there.webhooks.arrived(count)
    assert [each.event["data"]["userId"] for each in there.webhooks.sent] == ["ada", "bob", "eve"]
    assert silent.sent == []
