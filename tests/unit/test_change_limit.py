"""One user may request so many changes in a minute, through whatever door."""

from contextlib import nullcontext

import httpx
import jwt
import pytest

from app.auth.tokens import TokenVerifier
from app.contracts.callers import ADMIN, USE, Caller
from app.contracts.commands import BatchOperation, Origin, trusted_origin
from app.contracts.errors import InvalidTransitionError, RateLimitedError
from app.contracts.wire.errors import error_view
from app.http.application import build_application
from app.services.states.change_limit import MAX_IDLE_BUCKETS, SERVICE_FACTOR, ChangeLimit
from tests.support.rig import rig


def origin(user: str, *scopes: str) -> Origin:
    return Origin(Caller(user, scopes=frozenset(scopes or (USE,))))


def test_a_minute_has_so_many_changes_and_a_burst_as_many() -> None:
    now = [100.0]
    limit = ChangeLimit(60, lambda: now[0])

    def taken(asks: Origin, tries: int = 5000) -> int:
        for n in range(tries):
            try:
                limit.take(asks)
            except RateLimitedError:
                return n
        return tries

    assert taken(origin("ada")) == 60
    assert taken(origin("bob")) == 60, "each user has its own"
    assert taken(origin("ada", ADMIN)) == 60 * SERVICE_FACTOR, "who acts for many users has more"
    now[0] += 10
    assert taken(origin("ada")) == 10
    now[0] += 3600
    assert taken(origin("ada")) == 60
    assert taken(trusted_origin("python")) == 5000, "a Python program has no limit"


def test_it_says_when_the_next_one_is_taken() -> None:
    now = [100.0]
    limit = ChangeLimit(1, lambda: now[0])
    limit.take(origin("ada"))
    now[0] += 57.5
    with pytest.raises(RateLimitedError) as refusal:
        limit.take(origin("ada"))
    assert (refusal.value.retry_after, refusal.value.details) == (3, {"retryAfterMs": 2500})
    now[0] += 2.5
    limit.take(origin("ada"))


def test_users_that_went_quiet_cost_nothing() -> None:
    now = [100.0]
    limit = ChangeLimit(60, lambda: now[0])
    for n in range(3 * MAX_IDLE_BUCKETS):
        now[0] += 1
        limit.take(origin(f"u-{n}"))
    assert len(limit) <= MAX_IDLE_BUCKETS


async def test_every_change_counts_also_a_refused_one_and_no_dry_run() -> None:
    r = await rig(user_changes_per_minute=4)
    service, asks = r.service, origin("ada")
    await service.start_flow("ada", "loop", origin=asks)
    for _ in range(2):
        with pytest.raises(InvalidTransitionError):
            await service.execute_transition("ada", "loop", "nothing", origin=asks)
    tried = Origin(asks.caller, dry_run=True)
    for _ in range(10):
        await service.execute_transition("ada", "loop", "again", origin=tried)
    await service.execute_transition("ada", "loop", "again", origin=asks)
    for change in (
        service.start_flow("ada", "loop", origin=asks),
        service.execute_transition("ada", "loop", "again", origin=asks),
        service.reset_flow("ada", "loop", origin=asks),
        service.undo_transition("ada", "loop", origin=asks),
        service.clear_flow_state("ada", "loop", origin=asks),
        service.administration.resume_flow("ada", "loop", origin=asks),
    ):
        with pytest.raises(RateLimitedError) as refusal:
            await change
        view = error_view(refusal.value)
        assert (view.code, view.retryable, view.details["retryAfterMs"] > 0) == ("RATE_LIMITED", True, True)
    state = await service.as_trusted().get_flow_state("ada", "loop")
    assert state is not None
    assert state.revision == 1, "what is refused changes nothing"
    await service.execute_transition("ada", "loop", "again", origin=trusted_origin("ada"))


async def test_operations_of_a_batch_count_one_by_one() -> None:
    r = await rig(user_changes_per_minute=1)
    operations = [BatchOperation(op="reset", user_id=f"u-{n}", flow_id="loop") for n in range(25)]
    outcomes = await r.service.bulk.run(operations, origin("root", ADMIN))
    codes = [None if outcome.error is None else outcome.error.code for outcome in outcomes]
    assert codes == [None] * SERVICE_FACTOR + ["RATE_LIMITED"] * 5


async def test_over_http_it_is_429_with_retry_after() -> None:
    r = await rig(user_changes_per_minute=2)
    application = build_application(
        r.service,
        TokenVerifier(key="k" * 32, jwks_url=None, algorithms=["HS256"]),
        checks={},
        cors_origins=[],
        max_payload_bytes=1000,
        lifespan=lambda _: nullcontext(),
    )
    token = jwt.encode({"sub": "ada", "exp": 4102444800}, "k" * 32, "HS256")
    headers = {"Authorization": f"Bearer {token}"}
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://here", headers=headers) as http:
        answers = [await http.post("/api/flow/loop/start") for _ in range(3)]
        read = await http.get("/api/flow/loop/state")
    assert [answer.status_code for answer in answers] == [201, 200, 429]
    assert answers[2].json()["code"] == "RATE_LIMITED"
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 30
    assert read.status_code == 200, "reading is not limited"
