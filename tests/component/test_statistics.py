"""Statistics are right: counted by hand over a known history."""

import pytest

from app.contracts.errors import FlowError
from app.main import Backend


async def test_nothing_yet(parts: Backend) -> None:
    figures = await parts.service.get_flow_statistics()
    assert (figures.total_flows, figures.active_users, figures.popular_steps) == (0, 0, [])
    assert (figures.completion_rate, figures.error_rate, figures.average_flow_duration) == (0, 0, 0)
    assert figures.performance_metrics.average_response_time == 0


async def test_figures_over_a_known_history(parts: Backend) -> None:
    service = parts.service
    flows = service.as_trusted()
    for user in ("a", "b", "c"):
        await flows.start_flow(user, "user-onboarding")
    await flows.start_flow("a", "sign-in")
    for transition in ("start", "skip", "complete"):
        await flows.execute_transition("a", "user-onboarding", transition)
        await flows.execute_transition("b", "user-onboarding", transition)
    for _ in range(2):
        with pytest.raises(FlowError):
            await flows.execute_transition("c", "user-onboarding", "fly")
    await flows.start_flow("d", "user-onboarding")
    await flows.clear_flow_state("d", "user-onboarding")
    await service.background.relay.drain(10)

    figures = await service.get_flow_statistics()
    assert figures.total_flows == 4  # onboarding of a, b, c and sign-in of a
    assert figures.active_users == 2  # a (sign-in) and c; b has completed all
    assert figures.completion_rate == 50
    # 4 + 1 + 6 + 2 changes by callers (one of them clears), 2 refusals
    assert figures.error_rate == pytest.approx(2 / 14)
    counts = {(s.flow, s.step): s.count for s in figures.popular_steps}
    assert counts == {
        ("user-onboarding", "welcome"): 4,
        ("user-onboarding", "profile-setup"): 2,
        ("user-onboarding", "verification"): 2,
        ("user-onboarding", "completed"): 2,
        ("sign-in", "choice"): 1,
    }
    assert figures.popular_steps[0].count == 4
    states = [await flows.get_flow_state(user, "user-onboarding") for user in ("a", "b")]
    lasted = [(s.updated_at - s.created_at).total_seconds() * 1000 for s in states if s is not None]
    assert figures.average_flow_duration == pytest.approx(sum(lasted) / 2)
    metrics = figures.performance_metrics
    assert 0 < metrics.average_response_time <= metrics.p95_response_time * 10
    assert metrics.p95_response_time > 0
    assert metrics.throughput_per_second == pytest.approx(14 / 60)
