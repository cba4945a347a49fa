"""Removal of members of a payload by JSON pointers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, convert, json

from app.contracts.callers import trusted_caller
from app.contracts.commands import BatchOperation, Origin, SetCommand, StartCommand, trusted_origin
from app.contracts.errors import InvalidPayloadError, InvalidRequestError
from app.contracts.state import FlowState
from app.flow.values.removal import pointer_faults, without
from realtime.gateway.messages import TransitionMessage
from tests.support.rig import rig
from tests.support.samples import expense_flow

PAYLOAD: dict[str, Any] = {
    "a": None,
    "b": {"c": {"d": 1, "e": 2}, "": 0, "x/y": 1, "x~y": 2, "~1": 3},
    "l": [0, 1, [2, 3], {"m": 4, "n": 5}],
    "": {"": 1},
}


@pytest.mark.parametrize(
    ("pointers", "changed"),
    [
        ([], {}),
        (["/a"], {"a": UNSET}),
        (["/b/c/d"], {"b": {**PAYLOAD["b"], "c": {"e": 2}}}),
        (["/b/c/d", "/b/c/e"], {"b": {**PAYLOAD["b"], "c": {}}}),
        (["/b/c", "/b/c/d"], {"b": {"": 0, "x/y": 1, "x~y": 2, "~1": 3}}),
        (["/b/c/d", "/b/c"], {"b": {"": 0, "x/y": 1, "x~y": 2, "~1": 3}}),
        (["/b/c/d", "/b"], {"b": UNSET}),
        (["/b/"], {"b": {"c": {"d": 1, "e": 2}, "x/y": 1, "x~y": 2, "~1": 3}}),
        (["/b/x~1y", "/b/x~0y", "/b/~01"], {"b": {"c": {"d": 1, "e": 2}, "": 0}}),
        (["/l/0", "/l/1"], {"l": [[2, 3], {"m": 4, "n": 5}]}),
        (["/l/1", "/l/0"], {"l": [[2, 3], {"m": 4, "n": 5}]}),
        (["/l/2/1", "/l/3/m"], {"l": [0, 1, [2], {"n": 5}]}),
        (["/"], {"": UNSET}),
        (["//"], {"": {}}),
        (["/none", "/a/b", "/l/9", "/l/-", "/l/00", "/l/-1", "/b/c/d/e", "/l/m"], {}),
        (["/a", "/a"], {"a": UNSET}),
    ],
)
def test_values_at_pointers_are_removed(pointers: list[str], changed: dict[str, Any]) -> None:
    before = json.encode(PAYLOAD)
    left = without(PAYLOAD, pointers)
    assert left == {name: value for name, value in {**PAYLOAD, **changed}.items() if value is not UNSET}
    assert without(left, [p for p in pointers if not p.startswith("/l")]) == left, "repeatable"
    assert json.encode(PAYLOAD) == before, "the given payload is as it was"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "~", "/", "0"]), inner),
    max_leaves=12,
)


@given(payload=st.dictionaries(st.sampled_from(["a", "~", "/", "0"]), JSON), data=st.data())
def test_every_value_has_a_pointer_of_its_own(payload: dict[str, Any], data: st.DataObject) -> None:
    places: list[tuple[str, Any]] = []

    def walk(value: Any, at: str) -> None:
        members = value.items() if isinstance(value, dict) else enumerate(value)
        for name, member in members:
            pointer = f"{at}/{str(name).replace('~', '~0').replace('/', '~1')}"
            places.append((pointer, member))
            if isinstance(member, dict | list):
                walk(member, pointer)

    def leaves(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        return 1 + sum(map(leaves, inner))

    walk(payload, "")
    if not places:
        return
    pointer, member = data.draw(st.sampled_from(places))
    assert pointer_faults([pointer]) == []
    assert leaves(without(payload, [pointer])) == leaves(payload) - leaves(member)


async def payload_after(r: Any, **given: Any) -> Any:
    return (await r.flows.execute_transition("ada", "loop", "again", **given)).payload


async def test_a_transition_removes_first_and_then_merges() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop", StartCommand(payload={"a": 1, "b": {"c": 1, "d": 2}, "n": 0}))
    assert await payload_after(r, remove=["/b/c"]) == {"a": 1, "b": {"d": 2}, "n": 0}
    assert await payload_after(r, remove=["/a"], payload={"a": 2, "n": None}) == {
        "a": 2,
        "b": {"d": 2},
        "n": None,
    }
    assert await payload_after(r, remove=[]) == {"a": 2, "b": {"d": 2}, "n": None}
    assert await payload_after(r, remove=["/a", "/b", "/n"]) == {}
    history = await r.flows.get_flow_history("ada", "loop")
    after = [record.after.payload for record in history if isinstance(record.after, FlowState)]
    assert after[-1] == {}
    assert (await r.flows.verify_flow_history("ada", "loop")).whole


async def test_without_a_payload_there_is_nothing_to_remove() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop")
    assert await payload_after(r, remove=["/a"]) is UNSET
    assert await payload_after(r, remove=["/a"], payload={"a": 1}) == {"a": 1}


async def test_one_text_is_no_list_of_pointers() -> None:
    r = await rig()
    state, _ = await r.flows.start_flow("ada", "loop", StartCommand(payload={"": 1, "a": 2}))
    with pytest.raises(InvalidRequestError) as refusal:
        await r.flows.execute_transition("ada", "loop", "again", remove="/")
    assert [fault.pointer for fault in refusal.value.faults] == ["/remove"]
    assert await r.flows.get_flow_state("ada", "loop") == state


BAD = ["/a", "", "a", "/a~", "/a~2b", "/x~01", "/\ud800"]
FAULTY = [1, 2, 3, 4, 6]


async def test_every_bad_pointer_is_named_and_nothing_changes() -> None:
    r = await rig()
    state, _ = await r.flows.start_flow("ada", "loop", StartCommand(payload={"a": 1}))
    changes = (
        r.flows.execute_transition("ada", "loop", "again", {"b": 1}, remove=BAD),
        r.flows.set_flow_state("ada", SetCommand("a", flow="loop", remove=tuple(BAD))),
    )
    for change in changes:
        with pytest.raises(InvalidRequestError) as refusal:
            await change
        assert [fault.pointer for fault in refusal.value.faults] == [f"/remove/{n}" for n in FAULTY]
    operations = [
        BatchOperation(op="transition", transition="again", user_id="ada", flow_id="loop", body=body)
        for body in ({"remove": ["/a"]}, {"remove": BAD})
    ]
    with pytest.raises(InvalidRequestError) as refusal:
        await r.service.bulk.run(operations, trusted_origin("root"))
    assert [fault.pointer for fault in refusal.value.faults] == [
        f"/operations/1/body/remove/{n}" for n in FAULTY
    ]
    assert await r.flows.get_flow_state("ada", "loop") == state


async def test_in_a_batch_and_in_set() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop", StartCommand(payload={"a": 1, "b": 2, "c": 3}))
    moved = BatchOperation(
        op="transition", transition="again", user_id="ada", flow_id="loop", body={"remove": ["/a"]}
    )
    repaired = BatchOperation(
        op="set", user_id="ada", flow_id="loop", body={"step": "a", "remove": ["/b"], "payload": {"d": 4}}
    )
    replaced = BatchOperation(op="set", user_id="ada", flow_id="loop", body={"step": "a"})
    outcomes = await r.service.bulk.run([moved, repaired, replaced], trusted_origin("root"))
    payloads = [None if outcome.state is None else outcome.state.payload for outcome in outcomes]
    assert payloads == [{"b": 2, "c": 3}, {"c": 3, "d": 4}, UNSET]
    fresh = SetCommand("a", flow="loop", remove=("/a",), payload={"a": 1})
    assert (await r.flows.set_flow_state("bob", fresh)).payload == {"a": 1}, "there was nothing"


async def test_a_text_is_no_list_of_pointers() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop", StartCommand(payload={"": 1, "a": 2}))
    for text in ("/", "/a"):
        with pytest.raises(InvalidRequestError) as refusal:
            await r.flows.execute_transition("ada", "loop", "again", remove=text)
        assert [fault.pointer for fault in refusal.value.faults] == ["/remove"]


async def test_the_same_id_with_another_removal_is_another_request() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop", StartCommand(payload={"a": 1, "b": 2}))
    once = Origin(trusted_caller("ada"), request_id="r-1")
    first = await r.service.execute_transition("ada", "loop", "again", remove=["/a"], origin=once)
    again = await r.service.execute_transition("ada", "loop", "again", remove=["/a"], origin=once)
    assert (again.revision, again.payload) == (first.revision, {"b": 2})
    for other in (["/b"], UNSET):
        with pytest.raises(InvalidRequestError):
            await r.service.execute_transition("ada", "loop", "again", remove=other, origin=once)


async def test_a_schema_holds_whatever_is_removed() -> None:
    r = await rig()
    await r.service.create_flow(expense_flow())
    await r.flows.start_flow("ada", "expense", StartCommand(payload={"amount": 1, "reason": "old"}))
    with pytest.raises(InvalidPayloadError):
        await r.flows.execute_transition("ada", "expense", "submit", {"amount": 2}, remove=["/reason"])
    given = {"amount": 2, "reason": "lunch"}
    state = await r.flows.execute_transition("ada", "expense", "submit", given, remove=["/reason"])
    assert state.payload == given


def test_the_socket_accepts_pointers() -> None:
    message = convert({"flowId": "f", "transition": "t", "remove": ["/a"]}, TransitionMessage)
    assert message.command().remove == ("/a",)
