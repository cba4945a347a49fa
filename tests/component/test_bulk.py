"""Batches of state operations on the real database."""

import pytest

from app.contracts.commands import BatchAction, BatchOperation, trusted_origin
from app.contracts.ports.states import StateFilter
from app.main import Backend
from config.settings import Settings
from models.database import connect
from models.states import commits as commit
from models.states import store as state_store
from tests.support.databases import SentCommands
from tests.support.samples import PROGRAM
from tests.support.services import service_on

FLOW = "user-onboarding"


async def test_by_a_filter_page_by_page(parts: Backend) -> None:
    service = parts.service
    origin = trusted_origin("root")
    users = [f"u-{n}" for n in range(7)]
    starts = [BatchOperation(op="reset", user_id=user, flow_id=FLOW) for user in users]
    await service.bulk.run(starts, origin)
    seen, after = [], None
    pause = BatchAction(op="pause", body={"reason": "audit"})
    while True:
        page, after = await service.bulk.run_on_found(
            StateFilter(flow_id=FLOW), pause, origin, after=after, limit=3
        )
        seen += [outcome.user_id for outcome in page]
        if after is None:
            break
    assert seen == users
    assert (
        len((await service.administration.find_states(StateFilter(status="paused"), caller=PROGRAM)).states)
        == 7
    )


@pytest.mark.expected_logs(
    "redis connection lost",
    "events not published, redis unavailable",
    "delivery incomplete, records stay in outboxes",
    optional=True,
)
async def test_a_thousand_share_commands(
    parts: Backend, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bulk write for each kind, a few hundred operations at a time; not one call each. (Fewer at a time
    on a machine that is busy: so long is not waited for one answer, and Redis may seem to be away.)"""
    for module in (commit, state_store):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 60)
    assert settings.mongo_url is not None
    sent = SentCommands()
    counted = connect(settings.mongo_url.get_secret_value(), settings.mongo_database, [sent])
    service = service_on(counted)
    flows = service.as_trusted()
    resets = [BatchOperation(op="reset", user_id=f"u-{n}", flow_id=FLOW) for n in range(1000)]
    moves = [
        BatchOperation(op="transition", user_id=f"u-{n}", flow_id=FLOW, transition="start")
        for n in range(1000)
    ]
    try:
        await flows.start_flow("ada", FLOW)  # reads the definition
        sent.names.clear()
        for operations in (resets, moves):
            outcomes = await service.bulk.run(operations, trusted_origin("root"))
            assert [str(one.error) for one in outcomes if one.error is not None] == []
            assert len(sent.names) <= 2 * 1000 // 40, sent.names
            sent.names.clear()
    finally:
        await counted.close()
