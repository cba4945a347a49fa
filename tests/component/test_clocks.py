"""A worker whose clock is hours off, on real servers beside one that is right."""

from datetime import UTC, datetime, timedelta

import pytest

from app.kit.clock import SystemClock
from app.main import Backend
from config.settings import Settings
from tests.support.samples import flow_dict

FLOW = "short"
OFF = "clock offset too large, timers and expiry suspended"


class Shifted:
    """The system's clock, set wrong."""

    def __init__(self, by: timedelta) -> None:
        self._by = by

    def now(self) -> datetime:
        return SystemClock().now() + self._by


async def test_the_servers_say_what_time_it_is(parts: Backend) -> None:
    for server_time in (parts.database.server_time, parts.bus.server_time):
        before = datetime.now(UTC) - timedelta(seconds=0.1)
        assert before < await server_time() < datetime.now(UTC) + timedelta(seconds=0.1)


@pytest.mark.expected_logs(OFF)
@pytest.mark.parametrize("hours", [2, -2])
async def test_a_worker_hours_off_ends_no_state_and_runs_no_timer(
    settings: Settings, parts: Backend, hours: int
) -> None:
    definition = flow_dict(FLOW) | {"ttl": "PT30M"}
    async with Backend(settings).running() as right:
        right_flows = right.as_trusted()
        await right.definitions.create(definition, actor="root", source="api")
        await right_flows.start_flow("ada", FLOW)
        wrong_parts = Backend(settings, clock=Shifted(timedelta(hours=hours)))
        async with wrong_parts.running() as wrong:
            wrong_flows = wrong.as_trusted()
            assert not wrong_parts.time.is_trusted()
            assert await wrong.background.due_changes.purge_expired() == 0
            seen = await wrong_flows.get_flow_state("ada", FLOW)
            assert seen is not None
            state, _ = await wrong_flows.start_flow("bob", FLOW)
            assert await right.background.due_changes.purge_expired() == 0
            assert await right_flows.get_flow_state("bob", FLOW) is not None
            assert abs(state.updated_at - datetime.now(UTC)) < timedelta(minutes=5)
