"""The fields that readers see: what they may change, errors, records, and searching by a field."""

from typing import Any

import pytest
from msgspec import UNSET, structs

from app.contracts.callers import ADMIN, READ, SERVICE, Caller, service_caller, trusted_caller
from app.contracts.commands import Origin, StartCommand
from app.contracts.errors import (
    FlowNotFoundError,
    FlowStateCorruptionError,
    GuardRefusedError,
    InsufficientPermissionsError,
    InvalidRequestError,
)
from app.contracts.flow import Flow, FlowPatch
from app.contracts.positions import ExpectedPosition
from app.contracts.record import MergedField
from app.flow.people.field_access import mask_for, masked_record, masked_state
from app.flow.values.masking import Mask
from app.flow.values.search_terms import MAX_TERMS, MAX_VALUE_BYTES, search_term, search_terms
from app.services.definitions.field_masks import FieldMasks
from tests.support.field_world import CALLERS, PAYLOAD, fields_flow, make_world, named
from tests.support.rig import Rig
from tests.support.samples import flow_dict, fresh, record

OWNER, ROOT, SUPPORT = CALLERS["owner"], CALLERS["administrator"], CALLERS["support"]


async def payload(rig: Rig, flow: str = "claim") -> Any:
    return (await rig.flows.require_flow_state("olga", flow, **named(flow))).payload


async def test_a_payload_that_is_sent_back_changes_nothing() -> None:
    rig = await make_world("claim", "plain")
    for flow in ("claim", "plain"):
        for caller in ("owner", "service", "administrator"):
            shown = await rig.service.require_flow_state("olga", flow, caller=CALLERS[caller], **named(flow))
            origin = Origin(CALLERS[caller])
            for transition in ("file", "open"):
                await rig.service.execute_transition(
                    "olga", flow, transition, shown.payload, origin=origin, **named(flow)
                )
            assert await payload(rig, flow) == PAYLOAD


async def test_what_a_participant_does_not_see_stays_and_the_rest_is_changed() -> None:
    rig = await make_world("claim")
    sent = {"items": [{"name": "new", "price": "7"}], "card": {"name": "Eva"}}
    origin = Origin(CALLERS["clerk"])
    after = await rig.service.execute_transition("olga", "claim", "again", sent, origin=origin)
    assert after.payload == {"amount": "MK-amount-", "iban": "MK-iban-", "items": sent["items"]}
    assert await payload(rig) == {**PAYLOAD, **sent}, "a clerk sees nothing of the card, and replaced it"
    sent = {"card": {"name": "Ada"}, "items": [{"name": "newer"}]}
    await rig.service.execute_transition("olga", "claim", "file", sent, origin=Origin(OWNER))
    assert (await payload(rig))["items"] == [{"name": "newer", "price": "7"}]


@pytest.mark.parametrize(
    ("caller", "values", "reason"),
    [
        ("owner", {"state.payload.ssn": None, "state.payload.iban": "MK-iban-"}, "that you may not see"),
        ("administrator", {"state.payload.ssn": "MK-ssn-", "state.payload.iban": "MK-iban-"}, "MK-iban-"),
    ],
)
async def test_a_refusal_has_the_values_that_its_caller_sees(
    caller: str, values: dict[str, Any], reason: str
) -> None:
    rig = await make_world("claim")
    with pytest.raises(GuardRefusedError) as refusal:
        await rig.service.execute_transition("olga", "claim", "check", origin=Origin(CALLERS[caller]))
    assert refusal.value.details["values"] == values
    assert ("may not see" in refusal.value.details["reason"]) is ("may not see" in reason)


async def test_a_field_that_the_caller_does_not_see_is_no_conflict() -> None:
    rig = await make_world()
    flow = fields_flow("claim")
    for each in flow["steps"]["open"]["transitions"].values():
        each["conflict"] = {"merge": ["/amount"]}
    await rig.service.create_flow(flow)
    people = StartCommand(payload=PAYLOAD)
    await rig.service.start_flow("olga", "claim", people, origin=Origin(OWNER))
    clerk = Origin(structs.replace(ROOT, user_id="cleo"))
    changed = {"items": [{"name": "MK-item-", "price": "8"}]}
    await rig.service.execute_transition("olga", "claim", "again", changed, origin=clerk)
    mine = Origin(OWNER, expected=ExpectedPosition(revision=0))
    sent = {"amount": "9", "items": [{"name": "MK-item-"}]}
    await rig.service.execute_transition("olga", "claim", "file", sent, origin=mine)
    assert await payload(rig) == {**PAYLOAD, "amount": "9", **changed}


def test_merged_values_are_masked_like_the_payload() -> None:
    merged = (
        MergedField("/card", {"number": "1", "name": "a"}, {"number": "2", "name": "b"}),
        MergedField("/ssn", "1", "2"),
        MergedField("/amount", 1),
    )
    bare = structs.replace(record(fresh(payload=PAYLOAD)), merged=merged, payload={"ssn": 1, "amount": 2})
    shown = masked_record(bare, Mask(hidden=("/card/number", "/ssn")))
    assert shown.merged == (MergedField("/card", {"name": "a"}, {"name": "b"}), MergedField("/amount", 1))
    assert shown.payload == {"amount": 2}
    assert shown.masked == ("/ssn", "/card/number")
    assert shown.after is not UNSET
    assert "MK-ssn-" not in repr(shown.after)
    assert masked_record(bare, None) is bare


class Definitions:
    """A catalog without the versions, or with damaged ones."""

    def __init__(self, *, damaged: bool) -> None:
        self.damaged = damaged

    async def version(self, flow_id: str, _: int) -> None:
        if self.damaged:
            raise FlowStateCorruptionError("ada", flow_id, "damaged")


@pytest.mark.parametrize("damaged", [True, False])
async def test_without_a_definition_only_administrators_see_the_payload(damaged: bool) -> None:
    catalog: Any = Definitions(damaged=damaged)
    masks = FieldMasks(catalog, lambda _: ())
    state = fresh(payload={"a": 1})
    readers = {
        "owner": Caller("ada"),
        "support": SUPPORT,
        "service": service_caller("svc"),
        "administrator": ROOT,
        "program": trusted_caller("x"),
    }
    for name, reader in readers.items():
        seen = await masks.damaged_state(state, reader, "read")
        (shown,) = await masks.records([structs.replace(record(state), payload={"a": 1})], state, reader)
        sees = name in ("administrator", "program")
        assert (seen.payload == {"a": 1}) is (shown.payload == {"a": 1}) is sees, name
        assert seen.masked == (UNSET if sees else ("",))
    assert (await masks.damaged_state(state, ROOT, "list")).masked == ("",)


async def test_a_flow_without_these_members_costs_nothing() -> None:
    rig = Rig()
    await rig.service.create_flow(flow_dict())
    await rig.service.create_flow(flow_dict("masked", sensitive={"/a": []}))
    for flow in ("loop", "masked"):
        await rig.flows.start_flow("ada", flow, StartCommand(payload={"a": 1}))
        async with rig.service:
            assert await rig.service.background.relay.drain(5)
        assert rig.published[-1].depends_on_caller is (flow == "masked")
    state = fresh(payload={"a": 1})
    loop = (await rig.service.definitions.current("loop", ROOT)).flow
    for purpose in ("read", "list", "follow", "watch"):
        assert mask_for(loop, state, Caller("ada"), purpose) is None
    assert masked_state(state, None) is state


# Searching


async def found(rig: Rig, match: str, caller: Caller, flow: str = "claim", **page: Any) -> list[str]:
    states = await rig.service.search.find(flow, match, caller, **page)
    return [state.key for state in states.states]


async def test_states_are_found_by_those_who_see_the_field() -> None:
    rig = await make_world("claim")
    for caller in ("service", "key", "key with fields", "support", "administrator"):
        assert await found(rig, "/open=MK-open-", CALLERS[caller]) == ["claim:olga"], caller
        assert await found(rig, "/open=other", CALLERS[caller]) == []
        with pytest.raises(InsufficientPermissionsError):
            await found(rig, "/ssn=MK-ssn-", CALLERS[caller])
    assert await found(rig, "/ssn=MK-ssn-", trusted_caller("cli")) == ["claim:olga"]
    for caller in ("owner", "clerk"):
        with pytest.raises(InsufficientPermissionsError):
            await found(rig, "/open=MK-open-", CALLERS[caller])
    with pytest.raises(InsufficientPermissionsError):
        await found(rig, "/open=MK-open-", service_caller("other"))
    for match in ("/amount=1", "open=MK-open-", "/open", ""):
        with pytest.raises(InvalidRequestError):
            await found(rig, match, ROOT)
    with pytest.raises(FlowNotFoundError):
        await found(rig, "/open=1", ROOT, "unknown")


async def test_support_staff_search_by_visible_fields_alone() -> None:
    rig = await make_world("plain")
    with pytest.raises(InsufficientPermissionsError):
        await found(rig, "/open=MK-open-", SUPPORT, "plain")


async def test_the_version_of_a_state_decides_too() -> None:
    rig = await make_world("claim")
    await rig.service.update_flow("claim", {"sensitive": {}})
    assert await found(rig, "/ssn=MK-ssn-", ROOT) == [], "the state is on the version where it is sensitive"
    await rig.service.update_flow("claim", {"searchable": ["/amount"]})
    assert await found(rig, "/amount=MK-amount-", ROOT) == [], "it is not searchable on that version"


async def test_values_are_those_of_the_last_change() -> None:
    rig = Rig()
    await rig.service.create_flow(flow_dict(searchable=["/n", "/items/*/sku"]))
    start = StartCommand(payload={"n": 5, "items": [{"sku": "a"}, {"sku": True}]})
    for user in ("ada", "bob"):
        await rig.flows.start_flow(user, "loop", start)
    await rig.flows.start_flow("cat", "loop", StartCommand(payload={"n": "5"}))
    assert await found(rig, "/n=5", ROOT, "loop") == ["loop:ada", "loop:bob", "loop:cat"]
    assert await found(rig, "/n=5", ROOT, "loop", limit=2) == ["loop:ada", "loop:bob"]
    assert await found(rig, "/n=5", ROOT, "loop", after="loop:ada", limit=1) == ["loop:bob"]
    assert await found(rig, "/items/*/sku=a", ROOT, "loop") == ["loop:ada", "loop:bob"]
    assert await found(rig, "/items/*/sku=true", ROOT, "loop") == ["loop:ada", "loop:bob"]
    await rig.flows.execute_transition("ada", "loop", "again", {"n": 6})
    await rig.flows.execute_transition("bob", "loop", "again", remove=["/n"])
    assert await found(rig, "/n=5", ROOT, "loop") == ["loop:cat"]
    assert await found(rig, "/n=6", ROOT, "loop") == ["loop:ada"]
    await rig.flows.clear_flow_state("ada", "loop")
    async with rig.service:
        await rig.service.personal_data.erase("cat", Origin(ROOT))
    assert await found(rig, "/n=6", ROOT, "loop") == await found(rig, "/n=5", ROOT, "loop") == []
    assert all(not terms for key, terms in rig.states.terms.items() if key != "loop:bob")


def test_terms() -> None:
    assert search_term("f", "/a", "x") == 'f;/a="x"'
    assert search_term("f", "/a", 1) == search_term("f", "/a", 1.0) == "f;/a=1"
    assert [search_term("f", "/a", each) for each in (True, None, 1.5)] == [
        "f;/a=true",
        "f;/a=null",
        "f;/a=1.5",
    ]
    assert search_term("f", "/a", {"b": 1}) is search_term("f", "/a", [1]) is None
    assert search_term("f", "/a", "x" * MAX_VALUE_BYTES) is None
    assert search_terms("f", ["/a"], UNSET) == search_terms("f", ["/a"], {}) == ()
    assert search_terms("f", ["/a/1", "/a~1b", "/*"], {"a": [1, 2], "a/b": 3}) == (
        "f;/a/1=2",
        "f;/a~1b=3",
        "f;/*=3",
    )
    assert len(search_terms("f", ["/a/*"], {"a": list(range(100))})) == MAX_TERMS
    assert search_terms("f", ["/a/*"], {"a": [1, 1]}) == ("f;/a/*=1",)


def test_patches_have_the_members_too() -> None:
    members = {"sensitive", "visible", "searchable"}
    for shape in (Flow, FlowPatch):
        assert members <= {field.name for field in structs.fields(shape)}
    assert {ADMIN, READ, SERVICE}.isdisjoint(CALLERS["owner"].scopes)
