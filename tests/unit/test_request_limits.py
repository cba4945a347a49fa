"""Requests and changes are limited by who requests them and from where."""

from collections.abc import Mapping
from contextlib import nullcontext

import httpx
import jwt
import pytest

from app.auth.tokens import TokenVerifier
from app.contracts.callers import ADMIN, SERVICE, USE, Caller, service_caller, trusted_caller
from app.contracts.commands import BatchOperation, Origin, trusted_origin
from app.contracts.errors import InvalidTransitionError, RateLimitedError
from app.contracts.ports.rate_limits import CountedRequests, RateKey
from app.contracts.wire.errors import error_view
from app.http.application import build_application
from app.services.rates.connection_limits import ConnectionLimits
from app.services.rates.request_limits import SERVICE_FACTOR, RequestLimits, RequestRates
from app.services.rates.shared_budgets import MAX_BUDGETS, MAX_REPORTED, SharedBudgets
from tests.support.fake_rates import FakeRateCounters
from tests.support.rig import rig

ADA = RateKey("user", "ada", 60)


def origin(user: str, *scopes: str) -> Origin:
    return Origin(Caller(user, scopes=frozenset(scopes or (USE,))))


class Workers:
    """The budgets of some workers, in a time of their own."""

    def __init__(self, count: int = 1) -> None:
        self.now = 100.0
        self.counters = FakeRateCounters(lambda: self.now)
        self.budgets = [SharedBudgets(self.counters, lambda: self.now) for _ in range(count)]

    def limits(self, **rates: int) -> RequestLimits:
        return RequestLimits(self.budgets[0], RequestRates(**rates))

    async def report(self, seconds: float = 1.0) -> None:
        """Let time pass, and have every worker report, twice, so that the first one learns of the others."""
        self.now += seconds
        for budgets in [*self.budgets, *self.budgets]:
            await budgets.report()


def taken(budgets: SharedBudgets, key: RateKey = ADA, tries: int = 10_000) -> int:
    """Count the requests that are admitted at once."""
    for n in range(tries):
        if budgets.take(key):
            return n
    return tries


def test_a_minute_has_so_many_requests_and_a_burst_as_many() -> None:
    workers = Workers()
    (budgets,) = workers.budgets
    assert taken(budgets) == 60
    assert taken(budgets, RateKey("user", "bob", 60)) == 60, "each user has its own"
    assert taken(budgets, RateKey("change", "ada", 60)) == 60, "each limit counts alone"
    workers.now += 10
    assert taken(budgets) == 10
    workers.now += 3600
    assert taken(budgets) == 60


def test_a_refusal_says_when_the_next_one_is_admitted() -> None:
    workers = Workers()
    limits = workers.limits(changes=1)
    limits.admit_change(origin("ada"))
    workers.now += 57.5
    with pytest.raises(RateLimitedError) as refusal:
        limits.admit_change(origin("ada"))
    assert (refusal.value.retry_after, refusal.value.details) == (3, {"retryAfterMs": 2500})
    assert refusal.value.policy == ("change", 1)
    workers.now += 2.5
    limits.admit_change(origin("ada"))


async def test_workers_share_a_budget_a_second_later() -> None:
    workers = Workers(3)
    first, second, third = workers.budgets
    assert taken(first, tries=30) == 30
    assert taken(second, tries=29) == 29
    await workers.report()
    assert taken(first, tries=1) == 1
    await workers.report(0)
    assert taken(first) == 1, "59 of 60: one has been regained"
    assert taken(third) == 60, "it has not learnt of it yet"
    for _ in range(3):
        for each in workers.budgets:
            taken(each)
        await workers.report(0)
    seconds = [each.take(ADA) for each in workers.budgets]
    assert seconds == [pytest.approx(seconds[0])] * 3, "all say the same time, and it is true"
    workers.now += seconds[0] - 0.01
    assert [taken(each, tries=1) for each in workers.budgets] == [0, 0, 0]
    workers.now += 0.02
    assert taken(second, tries=1) == 1


async def test_steady_requests_of_workers_are_limited_together_even_if_each_is_slow_enough() -> None:
    workers = Workers(4)
    admitted = 0
    for _ in range(600):
        for _ in range(2):
            workers.now += 0.5
            admitted += sum(taken(each, tries=1) for each in workers.budgets)
        await workers.report(0)
    assert 600 <= admitted <= 60 + 600 + 4 * 5, "eight requests a second at four workers; one is regained"


async def test_steady_requests_at_the_limit_are_all_admitted() -> None:
    workers = Workers()
    (budgets,) = workers.budgets
    for _ in range(600):
        assert taken(budgets, tries=1) == 1
        await workers.report(1)


async def test_what_was_admitted_too_much_is_paid_back() -> None:
    workers = Workers(4)
    admitted = 0
    for _ in range(600):
        admitted += sum(taken(each) for each in workers.budgets)
        await workers.report(0.5)
    assert admitted <= 60 + 300 + 4 * 60, "a burst, 300 s, and one moment in which nobody knew of the others"


async def test_without_redis_each_worker_counts_alone_and_afterwards_they_share_again() -> None:
    workers = Workers(2)
    first, second = workers.budgets
    workers.counters.available = False
    assert [taken(first), taken(second)] == [60, 60]
    await workers.report(10)
    assert [taken(first), taken(second)] == [10, 10]
    workers.counters.available = True
    await workers.report(0)
    assert [taken(first), taken(second)] == [0, 0]
    await workers.report(1)
    assert [taken(first), taken(second)] == [0, 0]
    await workers.report(50)
    assert [taken(first), taken(second)] == [0, 0], "both minutes count"
    await workers.report(70)
    assert taken(first) == 60


async def test_a_long_outage_is_not_charged_afterwards() -> None:
    workers = Workers()
    (budgets,) = workers.budgets
    workers.counters.available = False
    for _ in range(100):
        assert taken(budgets) == 60
        await workers.report(60)
    workers.counters.available = True
    await workers.report(0)
    assert taken(budgets) == 60, "all of it has been regained"


async def test_only_used_budgets_are_reported_and_a_lost_redis_forgets_nothing_here() -> None:
    workers = Workers()
    (budgets,) = workers.budgets
    await workers.report()
    assert workers.counters.reports == []
    taken(budgets, tries=3)
    await workers.report(0)
    assert workers.counters.reports == [{ADA: CountedRequests(3)}]


async def test_a_user_who_sends_little_costs_no_report_and_is_reported_whole_later() -> None:
    workers = Workers()
    (budgets,) = workers.budgets
    key = RateKey("user", "ada", 6_000)
    assert taken(budgets, key, tries=50) == 50
    await workers.report(0)
    assert workers.counters.reports == []
    assert taken(budgets, key, tries=50) == 50
    await workers.report(0)
    assert workers.counters.reports == [{key: CountedRequests(100)}]


async def test_requests_during_a_report_are_counted() -> None:
    workers = Workers()

    class Slow(FakeRateCounters):
        async def add(self, requests: Mapping[RateKey, CountedRequests]) -> Mapping[RateKey, float]:
            assert taken(budgets, tries=20) == 20
            return await super().add(requests)

    budgets = SharedBudgets(Slow(lambda: workers.now), lambda: workers.now)
    assert taken(budgets, tries=10) == 10
    await budgets.report()
    assert taken(budgets) == 30


async def test_a_million_addresses_cost_bounded_memory_and_free_nobody_who_is_limited() -> None:
    workers = Workers()
    (budgets,) = workers.budgets
    assert taken(budgets) == 60
    for n in range(3 * MAX_BUDGETS):
        budgets.take(RateKey("address", str(n), 60))
    assert len(budgets) <= MAX_BUDGETS
    assert taken(budgets) == 0
    await budgets.report()
    await budgets.report()
    assert max(len(report) for report in workers.counters.reports) <= MAX_REPORTED


def test_users_that_went_quiet_cost_nothing() -> None:
    workers = Workers()
    (budgets,) = workers.budgets
    for n in range(MAX_BUDGETS):
        budgets.take(RateKey("user", str(n), 60))
    workers.now += 100
    budgets.take(RateKey("user", "another", 60))
    assert len(budgets) == 1


def test_services_and_administrators_have_limits_of_their_own() -> None:
    workers = Workers()
    limits = workers.limits(user=1, service=3, changes=1)

    def admitted(caller: Caller) -> int:
        for n in range(1000):
            try:
                limits.admit_caller(caller)
            except RateLimitedError:
                return n
        return 1000

    assert admitted(Caller("ada")) == 1
    assert admitted(Caller("ada", scopes=frozenset({ADMIN}))) == 3
    assert admitted(Caller("shop", scopes=frozenset({SERVICE}))) == 3
    assert admitted(service_caller("payment")) == 3
    assert admitted(service_caller("payment", credential="another key")) == 0, "its keys count together"
    for _ in range(SERVICE_FACTOR):
        limits.admit_change(origin("root", ADMIN))
    with pytest.raises(RateLimitedError):
        limits.admit_change(origin("root", ADMIN))
    for _ in range(5000):
        limits.admit_change(Origin(trusted_caller("python")))


def test_an_address_is_limited_by_network_and_its_failures_more() -> None:
    limits = Workers().limits(address=3, failures=2)
    for _ in range(100):
        limits.admit_address("127.0.0.1")
        limits.count_failure("::1")
    limits.require_few_failures("::1")
    for n in range(3):
        limits.admit_address(f"2001:db8::{n}")
    with pytest.raises(RateLimitedError):
        limits.admit_address("2001:db8::99")
    limits.admit_address("2001:db8:0:1::99")
    limits.require_few_failures("192.0.2.1")
    limits.count_failure("192.0.2.1")
    limits.require_few_failures("192.0.2.1")
    limits.count_failure("192.0.2.1")
    with pytest.raises(RateLimitedError, match="no valid token"):
        limits.require_few_failures("192.0.2.1")
    limits.admit_address("192.0.2.1")


def test_connections_are_counted_until_they_are_closed() -> None:
    limits = ConnectionLimits(per_user=2, per_address=3)
    ada, shop = Caller("ada"), Caller("shop", scopes=frozenset({SERVICE}))
    first = limits.open(ada, "192.0.2.1")
    limits.open(ada, "192.0.2.2")
    with pytest.raises(RateLimitedError, match="user"):
        limits.open(ada, "192.0.2.3")
    others = [limits.open(Caller("bob"), "192.0.2.1"), limits.open(shop, "192.0.2.1")]
    with pytest.raises(RateLimitedError, match="address"):
        limits.open(shop, "192.0.2.1")
    for _ in range(2):
        first.close()
    limits.open(ada, "192.0.2.1")
    for _ in range(SERVICE_FACTOR * 2 - 1):
        limits.open(shop, "127.0.0.1")
    with pytest.raises(RateLimitedError):
        limits.open(shop, "127.0.0.1")
    for each in others:
        each.close()


def test_closed_connections_leave_nothing() -> None:
    limits = ConnectionLimits(1, 1)
    limits.open(Caller("ada"), "192.0.2.1").close()
    assert len(limits) == 0
    limits.open(Caller("ada"), "192.0.2.1")
    with pytest.raises(RateLimitedError):
        limits.open(Caller("ada"), "192.0.2.9")
    assert len(limits) == 2, "a refusal counts nothing"


async def test_every_change_counts_also_a_refused_one_and_no_dry_run() -> None:
    r = await rig(rates=RequestRates(changes=4))
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
    r = await rig(rates=RequestRates(changes=1))
    operations = [BatchOperation(op="reset", user_id=f"u-{n}", flow_id="loop") for n in range(25)]
    outcomes = await r.service.bulk.run(operations, origin("root", ADMIN))
    codes = [None if outcome.error is None else outcome.error.code for outcome in outcomes]
    assert codes == [None] * SERVICE_FACTOR + ["RATE_LIMITED"] * 5


async def test_over_http_it_is_429_with_retry_after() -> None:
    r = await rig(rates=RequestRates(changes=2))
    application = build_application(
        r.service,
        TokenVerifier(key="k" * 32, algorithms=["HS256"]),
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
