"""Explanations agree with what commands do, and ways are the shortest ones."""

import copy
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType

from app.contracts.callers import ADMIN, READ, SERVICE, Caller
from app.contracts.commands import ClaimCommand, Origin, PauseCommand, StartCommand, trusted_origin
from app.contracts.errors import FlowError, InsufficientPermissionsError, InvalidRequestError
from app.contracts.flow import FlowTransition
from app.contracts.people import Participant
from app.contracts.wire.explanations import ExplanationView
from app.flow.validation import parse_flow
from app.flow.ways import shortest_way
from tests.support.rig import Rig
from tests.support.samples import flow_dict

SCHEMA = {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
GUARDED: dict[str, Any] = {
    "flow": "expense",
    "initialStep": "draft",
    "participants": {"reviewer": {"claim": "PT15M", "assignable": True}, "signer": {"assignable": True}},
    "steps": {
        "draft": {
            "index": 0,
            "step": "draft",
            "service": "desk",
            "timeout": {"after": "PT1H", "transition": "drop"},
            "transitions": {
                "submit": {"transition": "submit", "step": "review", "payloadSchema": SCHEMA},
                "small": {"transition": "small", "step": "done", "guard": "payload.amount < 10"},
                "rich": {"transition": "rich", "step": "done", "guard": "state.payload.limit > 100"},
                "never": {"transition": "never", "step": "done", "guard": "1 == 2"},
                "drop": {"transition": "drop", "step": "dropped", "roles": []},
                "vip": {"transition": "vip", "step": "review", "roles": ["gold"]},
            },
        },
        "review": {
            "index": 1,
            "step": "review",
            "service": "desk",
            "transitions": {
                "approve": {"transition": "approve", "step": "sign", "roles": ["reviewer"]},
                "sign": {
                    "transition": "sign",
                    "step": "done",
                    "approvals": {"of": "signer", "count": 2},
                    "notBy": ["submit"],
                },
            },
        },
        "sign": {
            "index": 2,
            "step": "sign",
            "service": "desk",
            "transitions": {
                "seal": {"transition": "seal", "step": "done", "roles": ["signer"], "notBy": ["approve"]}
            },
        },
        "done": {"index": 3, "step": "done", "service": "desk", "transitions": {}},
        "dropped": {"index": 4, "step": "dropped", "service": "desk", "transitions": {}},
    },
}
PEOPLE = (
    Participant("reviewer", "rita"),
    Participant("reviewer", "rob"),
    Participant("signer", "rita"),
    Participant("signer", "sam"),
)
CALLERS = [
    Caller("ada"),
    Caller("ada", roles=frozenset({"gold"})),
    Caller("rita"),
    Caller("rob"),
    Caller("sam"),
    Caller("desk", scopes=frozenset({SERVICE})),
    Caller("root", scopes=frozenset({ADMIN})),
]
PAYLOADS: list[dict[str, Any] | UnsetType] = [UNSET, {}, {"amount": 3}, {"amount": 30}, {"amount": "x"}]
WAYS: list[list[tuple[str, str, dict[str, Any]]]] = [
    [],
    [("ada", "submit", {"amount": 500, "limit": 500})],
    [("ada", "submit", {"amount": 5}), ("rob", "approve", {})],
    [("ada", "submit", {"amount": 5}), ("sam", "sign", {})],
]


async def world(way: list[tuple[str, str, dict[str, Any]]], *, limit: int = 0, paused: bool = False) -> Rig:
    made = Rig()
    await made.service.create_flow(GUARDED)
    start = StartCommand(participants=PEOPLE, payload={"limit": limit})
    await made.service.start_flow("ada", "expense", start, origin=trusted_origin("ada"))
    for user, transition, payload in way:
        origin = Origin(Caller(user))
        await made.service.execute_transition("ada", "expense", transition, payload=payload, origin=origin)
    if paused:
        command = PauseCommand(reason="check")
        await made.service.administration.pause_flow("ada", "expense", command, origin=trusted_origin("root"))
    return made


async def explain(made: Rig, caller: Caller, **asked: Any) -> ExplanationView:
    return await made.service.explanations.explain("ada", "expense", caller=caller, **asked)


@pytest.mark.parametrize("paused", [False, True], ids=["active", "paused"])
@pytest.mark.parametrize("limit", [0, 500])
@pytest.mark.parametrize("way", WAYS, ids=["draft", "review", "sign", "voted"])
async def test_explanations_agree_with_commands(
    way: list[tuple[str, str, dict[str, Any]]], limit: int, *, paused: bool
) -> None:
    made = await world(way, limit=limit, paused=paused)
    if way == WAYS[1] and not paused:
        command = ClaimCommand(role="reviewer")
        await made.service.people.claim("ada", "expense", command, origin=Origin(Caller("rita")))
    for caller, payload in itertools.product(CALLERS, PAYLOADS):
        found = await explain(made, caller, payload=payload, transition=None)
        for each in [*found.transitions, *(await explain(made, caller, transition="nosuch")).transitions]:
            possible = await _runs(made, caller, each.transition, payload)
            shown = (caller, payload, each)
            if each.possible is not None:
                assert each.possible is possible, shown
            else:
                assert payload is UNSET, shown
            assert each.possible is not True or all(check.passed for check in each.checks), shown


async def _runs(made: Rig, caller: Caller, transition: str, payload: dict[str, Any] | UnsetType) -> bool:
    before = await made.flows.require_flow_state("ada", "expense")
    try:
        after = await made.service.execute_transition(
            "ada", "expense", transition, payload=payload, origin=Origin(caller, dry_run=True)
        )
    except FlowError:
        return False
    return after.revision != before.revision


async def test_every_condition_is_named_at_once() -> None:
    made = await world([], paused=True)
    found = await explain(made, Caller("ada"), transition="submit", payload={"amount": "x"})
    (submit,) = found.transitions
    assert submit.possible is False
    failed = {check.condition: check for check in submit.checks if not check.passed}
    assert set(failed) == {"status", "payload"}
    assert failed["status"].code == "STATE_PAUSED"
    assert isinstance(failed["payload"].details, dict)
    assert failed["payload"].details["errors"][0]["pointer"] == "/payload/amount"


async def test_guards_are_reported_with_the_values_that_they_read() -> None:
    made = await world([], limit=7)
    (rich,) = (await explain(made, Caller("ada"), transition="rich")).transitions
    guard = next(check for check in rich.checks if check.condition == "guard")
    assert (guard.passed, guard.code) == (False, "GUARD_REFUSED")
    assert isinstance(guard.details, dict)
    assert guard.details["values"] == {"state.payload.limit": 7}


async def test_deadlines_roles_and_people_are_named() -> None:
    made = await world([])
    found = await explain(made, Caller("ada"))
    assert found.timeout_runs == "drop"
    by_name = {each.transition: each for each in found.transitions}
    assert by_name["drop"].roles == []
    assert by_name["vip"].roles == ["gold"]
    assert by_name["submit"].roles is UNSET
    deadlines = [check for check in by_name["submit"].checks if check.condition == "deadline"]
    assert [check.passed for check in deadlines] == [True]
    made = await world(WAYS[3])
    by_name = {each.transition: each for each in (await explain(made, Caller("ada"))).transitions}
    assert by_name["sign"].by == [Participant("signer", "rita"), Participant("signer", "sam")]
    assert by_name["sign"].votes == 1


async def test_support_staff_get_the_explanation_of_the_owner() -> None:
    made = await world([])
    service = Caller("desk", scopes=frozenset({SERVICE}))
    without = await explain(made, service, transition="vip", roles=[])
    assert [each.possible for each in without.transitions] == [False]
    gold = await explain(made, service, transition="vip", roles=["gold"])
    assert [each.possible for each in gold.transitions] == [True]
    assert gold.roles == ["gold"]


@pytest.mark.parametrize("caller", [Caller("ada"), Caller("rita")])
async def test_others_cannot_assume_roles(caller: Caller) -> None:
    made = await world([])
    with pytest.raises(InsufficientPermissionsError) as refusal:
        await explain(made, caller, roles=["gold"])
    assert refusal.value.details["scope"] == READ


HIDDEN_GUARDS = {
    "by payload": "payload.guess < state.payload.limit",
    "by role": "string(state.payload.limit) in user.roles",
    "by all": "payload.exists(name, state.payload[name] == payload[name])",
}


@pytest.mark.parametrize("caller", [Caller("rita"), Caller("sue", scopes=frozenset({READ}))])
@pytest.mark.parametrize("guard", HIDDEN_GUARDS.values(), ids=HIDDEN_GUARDS.keys())
async def test_hidden_values_cannot_be_found_by_trying_payloads_and_roles(guard: str, caller: Caller) -> None:
    flow = copy.deepcopy(GUARDED) | {"sensitive": {"/limit": []}}
    step = flow["steps"]["draft"]["transitions"]
    step["small"] = {"transition": "small", "step": "done", "guard": guard}
    step["open"] = {"transition": "open", "step": "done", "guard": "payload.guess < 5"}
    made = Rig()
    await made.service.create_flow(flow)
    start = StartCommand(participants=PEOPLE, payload={"limit": 7})
    await made.service.start_flow("ada", "expense", start, origin=trusted_origin("ada"))
    answers = set()
    for guess in (6, 7, 8):
        asked: dict[str, Any] = {"payload": {"guess": guess, "limit": guess}}
        if caller.reads_all:
            asked["roles"] = [str(guess)]
        (small,) = (await explain(made, caller, transition="small", **asked)).transitions
        (check,) = (each for each in small.checks if each.condition == "guard")
        answers.add((check.passed, small.possible is True, check.message))
    assert [passed for passed, _, _ in answers] == [None]
    (others,) = (await explain(made, caller, transition="open", payload={"guess": 1})).transitions
    assert [each.passed for each in others.checks if each.condition == "guard"] == [True]


async def test_a_payload_is_validated_against_many_schemas_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    validated: list[str] = []

    def fitting(transition: FlowTransition, *_: Any) -> None:
        validated.append(transition.transition)

    monkeypatch.setattr("app.flow.permissions.require_fitting_payload", fitting)
    made = await world([])
    (submit,) = (await explain(made, Caller("ada"), transition="submit", payload={"amount": 1})).transitions
    assert submit.possible is True
    assert validated == ["submit"], "no other one is of interest"
    monkeypatch.setattr("app.services.states.explanations.MAX_PAYLOAD_SECONDS", 0.0)
    found = await explain(made, Caller("ada"), transition="small", to="done", payload={"amount": 1})
    assert [each.possible for each in found.transitions] == [True], "the named one comes first"
    found = await explain(made, Caller("ada"), payload={"amount": 1})
    possible = {each.transition: each.possible for each in found.transitions}
    assert (possible["submit"], possible["small"]) == (True, None)


async def test_a_stranger_gets_no_explanation() -> None:
    made = await world([])
    with pytest.raises(InsufficientPermissionsError):
        await explain(made, Caller("mallory"))


async def test_the_way_to_a_step_has_what_it_needs() -> None:
    made = await world([])
    found = await explain(made, Caller("ada"), to="sign")
    assert found.way is not UNSET
    assert found.way.hops is not None
    assert [(hop.transition, hop.step) for hop in found.way.hops] == [
        ("submit", "review"),
        ("approve", "sign"),
    ], "by submit, which ada may run, and not by vip"
    assert found.way.hops[0].inputs == ["amount"]
    assert found.way.hops[0].possible is None
    assert found.way.hops[1].roles == ["reviewer"]


async def test_a_way_that_is_possible_now_goes_before_a_shorter_one() -> None:
    made = await world([])
    found = await explain(made, Caller("ada"), to="done", payload={"amount": 20})
    assert found.way is not UNSET
    assert found.way.hops is not None
    assert [hop.transition for hop in found.way.hops] == ["submit", "sign"]
    small = await explain(made, Caller("ada"), to="done", payload={"amount": 2})
    assert small.way is not UNSET
    assert small.way.hops is not None
    assert [hop.transition for hop in small.way.hops] == ["small"]


async def test_ways_that_end() -> None:
    made = await world(WAYS[1])
    back = (await explain(made, Caller("ada"), to="draft")).way
    here = (await explain(made, Caller("ada"), to="review")).way
    assert back is not UNSET
    assert back.hops is None
    assert here is not UNSET
    assert here.hops == []
    with pytest.raises(InvalidRequestError):
        await explain(made, Caller("ada"), to="nowhere")


@given(st.data())
def test_ways_are_as_short_as_a_search_in_breadth_finds(data: st.DataObject) -> None:
    names = [f"s{n}" for n in range(data.draw(st.integers(2, 7)))]
    edges = data.draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(names)), max_size=15))
    steps: dict[str, Any] = {
        name: {"index": n, "step": name, "service": "svc", "transitions": {}} for n, name in enumerate(names)
    }
    for n, (source, target) in enumerate(edges):
        steps[source]["transitions"][f"t{n}"] = {"transition": f"t{n}", "step": target}
    flow, _ = parse_flow(flow_dict(steps=steps, initialStep="s0"))
    target = data.draw(st.sampled_from(names))
    found = shortest_way(flow, "s0", target, Caller("ada"), {})
    expected = _distance(edges, "s0", target)
    assert (None if found is None else len(found)) == expected
    at = "s0"
    for hop in found or ():
        assert hop.from_step == at
        assert (at, hop.step) in edges
        at = hop.step


def _distance(edges: list[tuple[str, str]], start: str, target: str) -> int | None:
    reached, length = {start}, 0
    while target not in reached:
        further = reached | {to for source, to in edges if source in reached}
        if further == reached:
            return None
        reached, length = further, length + 1
    return length


async def test_a_late_explanation_says_that_the_deadline_has_passed() -> None:
    made = await world([])
    made.clock.advance(hours=2)
    (submit,) = (await explain(made, Caller("ada"), transition="submit", payload={"amount": 1})).transitions
    assert submit.possible is False
    assert [check.passed for check in submit.checks if check.condition == "deadline"] == [False]
