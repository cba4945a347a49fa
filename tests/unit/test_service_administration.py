"""The use cases about registered services."""

from base64 import b64decode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import UNSET, UnsetType, structs

from app.contracts.callers import ADMIN, SERVICE, Caller
from app.contracts.deliveries import LaneId, LanePosition, LaneUpdate, Mark
from app.contracts.errors import (
    FlowError,
    InsufficientPermissionsError,
    InvalidRequestError,
    RateLimitedError,
    ServiceConflictError,
    ServiceNotFoundError,
    WebhookMissingError,
)
from app.contracts.integration import ApiKey, BacklogPolicy, IntegrationHealth
from app.contracts.integration_commands import (
    DisableCommand,
    EnableCommand,
    HeartbeatCommand,
    RegistrationCommand,
    RotateCommand,
    SampleCommand,
)
from app.contracts.state import StateId
from app.services.integrations.administration import MAX_SERVICES, IntegrationAdministration
from app.services.integrations.probes import PER_MINUTE
from tests.support.fake_transports import answer
from tests.support.fakes import FakeClock
from tests.support.rig import Rig, rig
from tests.support.samples import T0, flow_dict

ROOT = Caller("root", scopes=frozenset({ADMIN}))
ITSELF = Caller("svc-program", scopes=frozenset({SERVICE}), service="svc")
OTHERS = [
    Caller("ada"),
    Caller("shop", scopes=frozenset({SERVICE})),
    Caller("other", scopes=frozenset({SERVICE}), service="other"),
    Caller("svc", service="svc"),
]
URL = "https://svc.example/events"


async def made(**limits: Any) -> tuple[Rig, IntegrationAdministration]:
    """A rig with the flow ``loop``, whose steps are of ``svc``, and ``side``, whose steps are of others."""
    there = await rig(**limits)
    side = flow_dict(flow="side")
    for step in side["steps"].values():
        step["service"] = "other"
    await there.service.create_flow(side)
    return there, there.service.integrations.administration


def pointers(error: pytest.ExceptionInfo[InvalidRequestError]) -> list[str]:
    return [fault.pointer for fault in error.value.faults]


async def test_a_service_is_registered_with_a_secret_that_is_shown_once() -> None:
    there, administration = await made()
    shown = await administration.register("svc", RegistrationCommand(url=URL), ROOT)
    assert shown.secret is not UNSET
    kind, _, secret = shown.secret.partition("_")
    assert (kind, len(b64decode(secret))) == ("whsec", 32)
    assert shown.integration.secrets[0].secret == shown.secret
    assert (shown.integration.url, shown.integration.revision) == (URL, 1)
    assert shown.integration.registered_at == there.clock.now()
    assert (await administration.read("svc", ROOT)).secret is UNSET
    again = await administration.register("svc", RegistrationCommand(url=URL), ROOT)
    assert again.secret is UNSET
    assert again.integration == shown.integration, "nothing was changed"
    (listed,) = await administration.list_all(ROOT)
    assert listed.integration == shown.integration
    assert listed.health == IntegrationHealth(alias="svc")


async def test_members_that_are_given_are_set_and_null_sets_the_default() -> None:
    _, administration = await made()
    first = RegistrationCommand(url=URL, events=("flow.completed",), rate=5, concurrency=2, thin=True)
    await administration.register("svc", first, ROOT)
    second = RegistrationCommand(url=None, concurrency=None, thin=None, stream=True, flows=("side",))
    changed = (await administration.register("svc", second, ROOT)).integration
    assert (changed.url, changed.concurrency, changed.thin, changed.stream) == (None, 10, False, True)
    assert (changed.events, changed.rate, changed.flows) == (("flow.completed",), 5, ("side",))
    assert changed.revision == 2


async def test_a_registration_names_every_fault() -> None:
    there, administration = await made()
    there.webhooks.refused["http://10.0.0.1/"] = "must be a public address"
    await there.service.definitions.retire("side", actor="root", source="python")
    command = RegistrationCommand(
        url="http://10.0.0.1/",
        events=("flow.completed", "flow.completed"),
        flows=("loop", "missing", "side", "a\x00b"),
        steps=("begin", "loop/begin", "loop/", "/begin", "-x", "a/b/c", "loop/bad step"),
        fields=("/a/b", "a", "", "/~2", "/~0~1"),
    )
    with pytest.raises(InvalidRequestError) as refused:
        await administration.register("svc", command, ROOT)
    assert pointers(refused) == [
        "/url",
        "/events/1",
        *("/flows/1", "/flows/2", "/flows/3"),
        *("/steps/2", "/steps/3", "/steps/4", "/steps/6"),
        *("/fields/1", "/fields/2", "/fields/3"),
    ]
    assert await administration.list_all(ROOT) == []


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"concurrency": 0}, "/concurrency"),
        ({"concurrency": 101}, "/concurrency"),
        ({"rate": 0}, "/rate"),
        ({"rate": 10_001}, "/rate"),
        ({"events": ("flow.unknown",)}, "/events/0"),
        ({"steps": tuple(f"s{n}" for n in range(101))}, "/steps"),
        ({"fields": tuple(f"/{n}" for n in range(101))}, "/fields"),
        ({"url": ""}, "/url"),
    ],
)
async def test_bounds_of_a_registration(members: dict[str, Any], pointer: str) -> None:
    _, administration = await made()
    with pytest.raises(InvalidRequestError) as refused:
        await administration.register("svc", RegistrationCommand(**members), ROOT)
    assert pointers(refused) == [pointer]


@pytest.mark.parametrize("alias", ["", "Svc", "a;b", "-a", "a-", "a" * 65, "a\n", "a/b", "ä"])
async def test_an_alias_has_no_separator(alias: str) -> None:
    _, administration = await made()
    with pytest.raises(InvalidRequestError) as refused:
        await administration.register(alias, RegistrationCommand(), ROOT)
    assert pointers(refused) == ["/alias"]


async def test_the_number_of_services_is_bounded() -> None:
    there, administration = await made()
    one = (await administration.register("svc", RegistrationCommand(), ROOT)).integration
    for n in range(MAX_SERVICES - 1):
        there.registrations.integrations[f"s{n}"] = structs.replace(one, alias=f"s{n}")
    with pytest.raises(InvalidRequestError, match="500 services already"):
        await administration.register("more", RegistrationCommand(), ROOT)
    await administration.register("svc", RegistrationCommand(rate=1), ROOT)


async def test_a_change_names_the_revision_that_it_changes() -> None:
    _, administration = await made()
    with pytest.raises(ServiceConflictError):
        await administration.register("svc", RegistrationCommand(), ROOT, expected=[1])
    await administration.register("svc", RegistrationCommand(), ROOT)
    with pytest.raises(ServiceConflictError):
        await administration.register("svc", RegistrationCommand(rate=1), ROOT, expected=[7])
    await administration.register("svc", RegistrationCommand(rate=1), ROOT, expected=[1, 7])
    with pytest.raises(ServiceConflictError):
        await administration.remove("svc", ROOT, expected=[1])
    await administration.remove("svc", ROOT, expected=[2])


async def test_a_service_registers_itself_for_its_own_steps() -> None:
    _, administration = await made()
    await administration.register("svc", RegistrationCommand(url=URL, flows=("loop",)), ITSELF)
    faults = []
    for flow in ("side", "missing"):
        with pytest.raises(InvalidRequestError) as refused:
            await administration.register("svc", RegistrationCommand(flows=("loop", flow)), ITSELF)
        faults += refused.value.faults
    assert [fault.pointer for fault in faults] == ["/flows/1", "/flows/1"]
    assert faults[0] == faults[1], "it does not learn which flows there are"
    await administration.register("svc", RegistrationCommand(flows=("loop", "side")), ROOT)
    await administration.register("svc", RegistrationCommand(flows=("side",), rate=1), ITSELF)
    await administration.register("svc", RegistrationCommand(flows=None), ITSELF)


async def test_a_service_does_not_list_sensitive_fields_itself() -> None:
    there, administration = await made()
    await there.service.create_flow(
        flow_dict(flow="secret") | {"sensitive": {"/ssn": [], "/items/*/price": ["clerk"]}}
    )
    hidden = ("/ssn", "/ssn/last", "/items/0/price", "/items/*/price")
    for pointer in hidden:
        with pytest.raises(InvalidRequestError) as refused:
            await administration.register("svc", RegistrationCommand(fields=("/id", pointer)), ITSELF)
        assert pointers(refused) == ["/fields/1"]
    await administration.register("svc", RegistrationCommand(fields=("/id", "/items")), ITSELF)
    await administration.register("svc", RegistrationCommand(fields=hidden), ROOT)
    changed = await administration.register("svc", RegistrationCommand(fields=("/id", "/ssn")), ITSELF)
    assert changed.integration.fields == ("/id", "/ssn"), "an administrator has listed it"
    with pytest.raises(InvalidRequestError):
        await administration.register("svc", RegistrationCommand(fields=hidden), ITSELF)


async def test_others_are_refused_alike_whether_or_not_there_is_such_a_service() -> None:
    there, administration = await made()
    probes = there.service.integrations.probes
    await administration.register("svc", RegistrationCommand(url=URL), ROOT)
    before = await administration.read("svc", ROOT)
    for caller in OTHERS:
        refusals = set()
        for alias in ("svc", "missing"):
            for request in (
                administration.read(alias, caller),
                administration.register(alias, RegistrationCommand(rate=1), caller),
                administration.rotate(alias, RotateCommand(), caller),
                administration.enable(alias, EnableCommand(), caller),
                administration.disable(alias, DisableCommand(), caller),
                administration.report(alias, HeartbeatCommand(), caller),
                probes.ping(alias, caller),
                probes.test(alias, SampleCommand(), caller),
            ):
                with pytest.raises(InsufficientPermissionsError) as refused:
                    await request
                refusals.add(refused.value.message)
        assert len(refusals) == 1, caller
    for caller in [*OTHERS, ITSELF]:
        for refusal in (administration.list_all(caller), administration.remove("svc", caller)):
            with pytest.raises(InsufficientPermissionsError):
                await refusal
    assert await administration.read("svc", ROOT) == before
    assert there.webhooks.sent == []


async def test_a_service_may_do_what_concerns_itself() -> None:
    there, administration = await made()
    await administration.register("svc", RegistrationCommand(url=URL), ITSELF)
    await administration.rotate("svc", RotateCommand(), ITSELF)
    await administration.report("svc", HeartbeatCommand(), ITSELF)
    await administration.disable("svc", DisableCommand(), ITSELF)
    await administration.enable("svc", EnableCommand(), ITSELF)
    assert (await there.service.integrations.probes.ping("svc", ITSELF)).ok
    assert (await administration.read("svc", ITSELF)).integration.enabled


async def test_what_is_missing_is_named_to_administrators() -> None:
    there, administration = await made()
    for request in (
        administration.read("nobody", ROOT),
        administration.remove("nobody", ROOT),
        administration.rotate("nobody", RotateCommand(), ROOT),
        administration.enable("nobody", EnableCommand(), ROOT),
        administration.disable("nobody", DisableCommand(), ROOT),
        administration.report("nobody", HeartbeatCommand(), ROOT),
        there.service.integrations.probes.ping("nobody", ROOT),
    ):
        with pytest.raises(ServiceNotFoundError, match="No service is registered as nobody"):
            await request


async def test_older_secrets_sign_until_they_expire() -> None:
    there, administration = await made()
    first = (await administration.register("svc", RegistrationCommand(), ROOT)).integration.secrets[0]
    shown = await administration.rotate("svc", RotateCommand(), ROOT)
    second, old = shown.integration.secrets
    assert shown.secret == second.secret != first.secret
    assert second.expires_at is None
    now = there.clock.now()
    assert old == structs.replace(first, expires_at=now + timedelta(days=1))
    shown = await administration.rotate("svc", RotateCommand(expires_in=60), ROOT)
    assert [each.expires_at for each in shown.integration.secrets] == [
        None,
        now + timedelta(seconds=60),
        now + timedelta(seconds=60),
    ]
    there.clock.advance(seconds=61)
    shown = await administration.rotate("svc", RotateCommand(expires_in=0), ROOT)
    assert len(shown.integration.secrets) == 1, "the others have expired"
    for _ in range(9):
        shown = await administration.rotate("svc", RotateCommand(), ROOT)
    assert len(shown.integration.secrets) == 5
    assert len({each.id for each in shown.integration.secrets}) == 5


async def test_a_heartbeat_is_stored_and_changes_no_revision() -> None:
    there, administration = await made()
    await administration.register("svc", RegistrationCommand(), ROOT)
    await administration.report("svc", HeartbeatCommand("degraded", "slow disk"), ROOT)
    found = (await administration.read("svc", ROOT)).integration
    assert found.heartbeat is not UNSET
    assert (found.heartbeat.status, found.heartbeat.message) == ("degraded", "slow disk")
    assert (found.heartbeat.at, found.revision) == (there.clock.now(), 1)


NOW = FakeClock().now()
LATER = datetime(2027, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("command", "policy"),
    [
        (EnableCommand(), UNSET),
        (EnableCommand("all"), UNSET),
        (EnableCommand("since", LATER), BacklogPolicy("skip", LATER)),
        (EnableCommand("newest"), BacklogPolicy("newest", NOW)),
        (EnableCommand("none"), BacklogPolicy("skip", NOW)),
    ],
)
async def test_on_return_somebody_chooses_what_of_the_backlog_is_delivered(
    command: EnableCommand, policy: BacklogPolicy | UnsetType
) -> None:
    there, administration = await made()
    await administration.register("svc", RegistrationCommand(), ROOT)
    lane = LaneId("svc", StateId("loop", "ada"))
    await there.lanes.mark([Mark("svc", lane.state_id, LanePosition("e", 1), T0)], T0)
    opened = IntegrationHealth(alias="svc", breaker="open", failures=5, revision=1)
    assert await there.registrations.put_health(opened)
    off = (await administration.disable("svc", DisableCommand("broken"), ROOT)).integration
    assert (off.enabled, off.disabled_reason, off.disabled_by) == (False, "broken", "administrator")
    shown = await administration.enable("svc", command, ROOT)
    back = shown.integration
    assert (back.enabled, back.disabled_reason, back.disabled_by) == (True, UNSET, UNSET)
    assert back.backlog == policy
    assert shown.health.breaker == "closed"
    assert await there.lanes.list_due("svc", NOW, 10) == [lane], "its events are retained, and due"
    assert (await administration.read("svc", ROOT)).waiting == 1


@pytest.mark.parametrize("command", [EnableCommand("since"), EnableCommand("all", LATER)])
async def test_a_choice_with_half_of_its_members_is_refused(command: EnableCommand) -> None:
    _, administration = await made()
    await administration.register("svc", RegistrationCommand(), ROOT)
    with pytest.raises(InvalidRequestError) as refused:
        await administration.enable("svc", command, ROOT)
    assert pointers(refused) == ["/since"]


async def test_a_service_does_not_undo_what_an_administrator_disabled() -> None:
    _, administration = await made()
    await administration.register("svc", RegistrationCommand(), ROOT)
    await administration.disable("svc", DisableCommand("abuse"), ROOT)
    with pytest.raises(InsufficientPermissionsError, match="An administrator has disabled"):
        await administration.enable("svc", EnableCommand(), ITSELF)
    shown = await administration.disable("svc", DisableCommand("my own choice"), ITSELF)
    assert shown.integration.disabled_by == "administrator"
    assert shown.integration.disabled_reason == "abuse"
    await administration.enable("svc", EnableCommand(), ROOT)


@pytest.mark.expected_logs("stream of service not removed", optional=True)
@pytest.mark.parametrize("broken", [False, True])
async def test_nothing_of_a_removed_service_remains(broken: bool) -> None:
    there, administration = await made()
    await administration.register("svc", RegistrationCommand(stream=True), ROOT)
    await there.lanes.mark([Mark("svc", StateId("loop", "ada"), LanePosition("e", 1), T0)], T0)
    await there.api_keys.add(ApiKey(id="k", alias="svc", hashed="h", created_at=T0, created_by="root"))
    await there.streams.append("svc", [("evt_1", b'{"type":"flow.started"}')])
    there.streams.broken = broken
    await administration.remove("svc", ROOT)
    with pytest.raises(ServiceNotFoundError):
        await administration.read("svc", ROOT)
    assert there.service.integrations.registry.registered == ()
    assert await there.lanes.count_due("svc", 10) == 0
    assert await there.api_keys.of_integration("svc") == []
    assert ("svc" in there.streams.streams) is broken


async def test_a_ping_reports_the_answer_and_is_no_delivery() -> None:
    there, administration = await made()
    probes = there.service.integrations.probes
    await administration.register("svc", RegistrationCommand(), ROOT)
    with pytest.raises(WebhookMissingError):
        await probes.ping("svc", ROOT)
    await administration.register("svc", RegistrationCommand(url=URL), ROOT)
    there.webhooks.script(URL, answer(200), answer(500))
    there.webhooks.script("svc")
    good, bad = await probes.ping("svc", ROOT), await probes.ping("svc", ROOT)
    assert (good.ok, good.status, good.failure) == (True, 200, UNSET)
    assert (bad.ok, bad.status) == (False, 500)
    there.webhooks.refused[URL] = "the address is not public"
    refused = await probes.ping("svc", ROOT)
    assert (refused.ok, refused.status) == (False, UNSET)
    assert (refused.failure, refused.error) == ("refused_address", "the address is not public")
    event = there.webhooks.sent[0].event
    assert event["id"] == good.event_id == there.webhooks.sent[0].event_id
    assert (event["specversion"], event["type"], event["data"]) == ("1.0", "server-flow.ping", {})
    assert (await administration.read("svc", ROOT)).health == IntegrationHealth(alias="svc")


@pytest.mark.parametrize("thin", [False, True])
async def test_a_sample_has_the_type_that_is_requested(thin: bool) -> None:
    there, administration = await made()
    await administration.register("svc", RegistrationCommand(url=URL, thin=thin), ROOT)
    await there.service.integrations.probes.test("svc", SampleCommand("flow.completed"), ROOT)
    (sent,) = there.webhooks.sent
    assert (sent.event["type"], sent.event["test"]) == ("flow.completed", True)
    assert ("payload" in sent.event["data"]) is not thin


async def test_probes_of_one_service_are_limited() -> None:
    there, administration = await made()
    probes = there.service.integrations.probes
    for alias in ("svc", "other"):
        await administration.register(alias, RegistrationCommand(url=URL), ROOT)
    refused: list[FlowError] = []
    for _ in range(PER_MINUTE + 1):
        try:
            await probes.ping("svc", ROOT)
        except RateLimitedError as error:
            refused.append(error)
    assert len(refused) == 1
    assert len(there.webhooks.sent) == PER_MINUTE
    assert (await probes.ping("other", ROOT)).ok


async def test_statistics_show_services_with_their_breaker_and_heartbeat() -> None:
    there, administration = await made()
    assert (await there.service.get_flow_statistics()).services == ()
    for alias in ("svc", "other"):
        await administration.register(alias, RegistrationCommand(), ROOT)
    await administration.report("svc", HeartbeatCommand("down", "no disk"), ROOT)
    await there.registrations.put_health(IntegrationHealth(alias="svc", breaker="open", revision=1))
    await there.registrations.count("svc", delivered=3, failed=2, internal=1)
    await administration.disable("other", DisableCommand(), ROOT)
    other, svc = (await there.service.get_flow_statistics()).services
    assert (other.alias, other.enabled, other.breaker, other.heartbeat) == ("other", False, "closed", UNSET)
    assert (svc.alias, svc.breaker) == ("svc", "open")
    assert (svc.delivered, svc.failed, svc.internal) == (3, 2, 1)
    assert svc.heartbeat is not UNSET
    assert (svc.heartbeat.status, svc.heartbeat.message) == ("down", "no disk")


async def test_deliveries_begin_at_once_at_another_address() -> None:
    there, administration = await made()
    await administration.register("svc", RegistrationCommand(url=URL), ROOT)
    lane = LaneId("svc", StateId("loop", "ada"))
    await there.lanes.mark([Mark("svc", lane.state_id, LanePosition("e", 1), T0)], T0)
    (claimed,) = await there.lanes.claim([lane], "worker", T0, T0 + timedelta(minutes=1))
    backing_off = LaneUpdate(lane=claimed, cursor=None, due_at=T0 + timedelta(days=9), failures=3)
    await there.lanes.release([backing_off], T0)
    opened = IntegrationHealth(alias="svc", breaker="open", failures=5, openings=1, revision=1)
    assert await there.registrations.put_health(opened)
    shown = await administration.register("svc", RegistrationCommand(rate=5), ROOT)
    assert shown.health.breaker == "open"
    assert await there.lanes.list_due("svc", NOW, 10) == []
    shown = await administration.register("svc", RegistrationCommand(url=f"{URL}/new"), ROOT)
    assert shown.health.breaker == "closed"
    assert await there.lanes.list_due("svc", NOW, 10) == [lane]
