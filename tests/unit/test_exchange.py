"""Definitions in other formats: each way out is a way back, and what is not carried is listed."""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.contracts.errors import InvalidDefinitionError
from app.contracts.flow import Flow, FlowTimeout, FlowTransition
from app.exchange.conversion_report import Unconverted
from app.exchange.names import Names, slug_of
from app.exchange.xstate_export import to_xstate
from app.exchange.xstate_import import MAX_TRANSITIONS, from_xstate
from app.exchange.yaml import flow_to_yaml
from app.flow.validation import check_flow, parse_flow
from app.sources.formats import decode
from tests.support.long_form import examples
from tests.support.machines import flows, machines, spoiled
from tests.support.samples import expense_flow, flow_dict

Json = dict[str, Any]
Found = dict[str, str]

many = settings(examples(80), suppress_health_check=list(HealthCheck))


def sound(raw: Json) -> Flow:
    return parse_flow(raw)[0]


def exactly(flow: Flow) -> bytes:
    """Also the order of steps and transitions, and 1 not being true."""
    return msgspec.json.encode(flow)


def imported(machine: Json) -> tuple[Flow, Found, Found]:
    """Return the flow, and by pointer the parts that were dropped and those that were converted."""
    done = from_xstate(machine)
    flow = sound(done.flow)
    assert done.not_carried == list(dict.fromkeys(done.not_carried))
    dropped = {each.pointer: each.reason for each in done.not_carried if not each.converted}
    converted = {each.pointer: each.reason for each in done.not_carried if each.converted}
    return flow, dropped, converted


def faults_of(machine: object) -> Found:
    with pytest.raises(InvalidDefinitionError) as refusal:
        from_xstate(machine)
    return {fault.pointer: fault.message for fault in refusal.value.faults}


def ways(flow: Flow) -> dict[str, dict[str, str]]:
    return {n: {t: way.step for t, way in step.transitions.items()} for n, step in flow.steps.items()}


def machine(**states: Json) -> Json:
    return {"id": "m", "initial": next(iter(states)), "states": states}


# Out and back


@many
@given(flows())
def test_any_sound_flow_comes_back_from_a_machine_exactly(flow: Flow) -> None:
    written = json.loads(json.dumps(to_xstate(flow).machine))
    back = from_xstate(written)
    assert back.not_carried == []
    assert exactly(sound(back.flow)) == exactly(flow)


@many
@given(flows())
def test_any_sound_flow_comes_back_from_yaml_exactly(flow: Flow) -> None:
    text = flow_to_yaml(flow)
    assert exactly(sound(decode(text.encode(), ".yaml", "flow.yaml"))) == exactly(flow)


TEXTS = (
    "yes", "No", "null", "~", "1e3", "0x1F", "12:30:45", "2001-01-01", "-", "- a", "a: b", "a #b", "a:", "=",
    "<<", "", " ", "a ", " a", "'", '"', "\\", "\t", "a\nb", "a\nb\n", "a\n\nb", "a\n\n", "\na", " a\nb",
    "a\n  b", "a \nb", "a\r\nb", "\x85", "\u2028", "\ufeff", "\x7f", "\U0001f600", "x" * 1000, "---",
    "a\n---\nb", "a\n...", "%A", "@a",
)  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_yaml_preserves_each_text_as_a_value_and_as_a_name(text: str) -> None:
    raw = flow_dict(meta={"list": [text, [text], {text: text}], text: [{"a": text, "b": text}]})
    assert decode(flow_to_yaml(sound(raw)).encode(), ".yaml", "flow.yaml") == raw


def test_yaml_is_written_for_people() -> None:
    flow = sound(
        flow_dict(title="Loop", description="One.\n\nTwo:\n  three", meta={"empty": {}, "size": 1e20})
    )
    text = flow_to_yaml(flow)
    assert "\ntitle: Loop\n" in text
    assert "\ndescription: |-\n  One.\n\n  Two:\n    three\n" in text
    assert "\nmeta:\n  empty: {}\n  size: 1.0e+20\n" in text
    assert "    transitions:\n      jump:\n        transition: jump\n        step: c\n" in text


def test_yaml_has_no_blanks_at_the_end_of_a_line_which_editors_take_away() -> None:
    text = flow_to_yaml(sound(flow_dict(description="a \nb", meta={"text": "a\n  \nb"})))
    assert '\ndescription: "a \\nb"\n' in text
    assert not any(line.endswith(" ") for line in text.split("\n"))


# Out


def test_a_machine_says_what_both_can_say_in_xstates_own_words() -> None:
    flow = sound(
        flow_dict(
            description="Round and round",
            meta={"color": "red"},
            steps={
                "a": {
                    "index": 7,
                    "step": "a",
                    "service": "svc",
                    "description": "Begin",
                    "timeout": {"after": "PT15M", "transition": "remind"},
                    "transitions": {
                        "go": {"transition": "go", "step": "b", "guard": "payload.n > 1", "explicit": True},
                        "again": {"transition": "again", "step": "a", "meta": {"key": "F5"}},
                        "remind": {"transition": "remind", "step": "a", "roles": [], "description": "Late"},
                    },
                },
                "b": {"index": 1, "step": "b", "service": "svc", "transitions": {}},
            },
        )
    )
    assert to_xstate(flow).machine == {
        "id": "loop",
        "description": "Round and round",
        "meta": {"color": "red"},
        "initial": "a",
        "states": {
            "a": {
                "description": "Begin",
                "meta": {"server-flow": {"index": 7, "service": "svc"}},
                "on": {
                    "go": {
                        "target": "b",
                        "guard": {"type": "cel", "params": {"expression": "payload.n > 1"}},
                        "meta": {"server-flow": {"explicit": True}},
                    },
                    "again": {"target": "a", "reenter": True, "meta": {"key": "F5"}},
                },
                "after": {
                    "900000": {
                        "target": "a",
                        "reenter": True,
                        "description": "Late",
                        "meta": {"server-flow": {"roles": [], "transition": "remind"}},
                    }
                },
            },
            "b": {"type": "final", "meta": {"server-flow": {"index": 1, "service": "svc"}}},
        },
    }


def test_what_xstate_does_not_do_is_listed_as_retained() -> None:
    raw = expense_flow(ttl="P30D", roles=["clerk"], resettable=False, clearable=["clerk"])
    raw["steps"]["draft"]["initial"] = True
    raw["steps"]["review"]["timeout"]["resume"] = "restart"
    listed = to_xstate(sound(raw)).not_carried
    assert all(each.converted for each in listed)
    assert [each.pointer for each in listed] == [
        "/ttl",
        "/roles",
        "/resettable",
        "/clearable",
        "/steps/draft/initial",
        "/steps/draft/transitions/submit/payloadSchema",
        "/steps/review/timeout/resume",
        "/steps/review/transitions/approve/explicit",
        "/steps/review/transitions/approve/guard",
        "/steps/review/transitions/approve/roles",
        "/steps/review/transitions/reject/explicit",
        "/steps/review/transitions/reject/guard",
        "/steps/review/transitions/reject/payloadSchema",
        "/steps/review/transitions/reject/roles",
        "/steps/review/transitions/withdraw/reversible",
    ]
    reasons = {each.pointer.rpartition("/")[2]: each.reason for each in listed}
    assert "params.expression" in reasons["guard"]


def test_rules_between_people_are_retained_and_listed() -> None:
    raw = expense_flow(instances="many", participants={"approver": {"assignable": True, "claim": "PT900S"}})
    submit = raw["steps"]["draft"]["transitions"]["submit"]
    submit["assign"] = [{"role": "approver", "from": "payload.approver"}]
    approve = raw["steps"]["review"]["transitions"]["approve"]
    approve |= {"notBy": ["submit"], "approvals": {"of": "approver", "count": 2}}
    approve["conflict"] = {"merge": ["/amount"]}
    flow = sound(raw)
    exported = to_xstate(flow)
    listed = {each.pointer for each in exported.not_carried}
    assert listed >= {
        "/instances",
        "/participants",
        "/steps/draft/transitions/submit/assign",
        "/steps/review/transitions/approve/notBy",
        "/steps/review/transitions/approve/approvals",
        "/steps/review/transitions/approve/conflict",
    }
    assert sound(from_xstate(exported.machine).flow) == flow
    assert msgspec.to_builtins(flow)["participants"]["approver"] == {"assignable": True, "claim": "PT900S"}


def test_a_transition_that_needs_votes_is_not_run_by_an_imported_timeout() -> None:
    """Another one is added, with the same target."""
    for members, same in (({}, True), ({"approvals": {"of": "clerk", "count": 2}}, False)):
        machine = to_xstate(sound(expense_flow())).machine
        review = machine["states"]["review"]
        (delayed,) = review["after"].values()
        delayed["meta"]["server-flow"]["transition"] = "approve"
        review["on"]["approve"]["target"] = delayed["target"]
        del review["on"]["approve"]["guard"]
        review["on"]["approve"]["meta"]["server-flow"] |= members
        step = from_xstate(machine).flow["steps"]["review"]
        assert (step["timeout"]["transition"] == "approve") is same


def test_a_timeout_that_xstate_would_not_wait_for_is_data_alone() -> None:
    raw = expense_flow()
    for after, native in (("PT2147483.647S", True), ("PT2147483.648S", False)):
        raw["steps"]["review"]["timeout"]["after"] = after
        done = to_xstate(sound(raw))
        review = done.machine["states"]["review"]
        assert ("after" in review, "remind" in review["on"]) == (native, not native)
        listed = [each.pointer for each in done.not_carried]
        assert ("/steps/review/timeout" in listed) is not native
        assert ("/steps/review/transitions/remind/roles" in listed) is not native


def test_a_name_that_javascript_takes_for_something_else_is_listed() -> None:
    raw = flow_dict()
    raw["steps"]["a"]["transitions"] = {"__proto__": {"transition": "__proto__", "step": "__proto__"}}
    raw["steps"]["__proto__"] = {**raw["steps"]["c"], "step": "__proto__", "index": 9}
    listed = {each.pointer for each in to_xstate(sound(raw)).not_carried}
    assert {"/steps/__proto__", "/steps/a/transitions/__proto__"} <= listed


@pytest.mark.parametrize(
    "meta", [None, {}, {"a": 1}, {"server-flow": 1}, {"server-flow": {"meta": {}}}, {"meta": 1}]
)
def test_the_authors_own_meta_comes_back(meta: Json | None) -> None:
    given: Json = {} if meta is None else {"meta": meta}
    raw = flow_dict(**given)
    raw["steps"]["c"].update(given)
    back = sound(from_xstate(to_xstate(sound(raw)).machine).flow)
    assert (back.meta, back.steps["c"].meta) == (meta, meta)


def test_names_that_are_numbers_stay_in_their_order_also_when_javascript_changed_it() -> None:
    raw = flow_dict(initialStep="20")
    transitions = {name: {"transition": name, "step": "a"} for name in ("9", "x", "3")}
    raw["steps"] = {
        name: {"index": index, "step": name, "service": "-", "transitions": transitions}
        for index, name in enumerate(("20", "a", "10"))
    }
    flow = sound(raw)
    written = to_xstate(flow).machine

    def numbers_first(members: Json) -> Json:
        return dict(sorted(members.items(), key=lambda member: (not member[0].isdigit(), member[0].zfill(9))))

    written["states"] = numbers_first(written["states"])
    for state in written["states"].values():
        state["on"] = numbers_first(state["on"])
    assert list(written["states"]) == ["10", "20", "a"]
    assert exactly(sound(from_xstate(written).flow)) == exactly(flow)


# In


def test_a_plain_machine_becomes_a_flow() -> None:
    flow, dropped, converted = imported(
        {
            "id": "order",
            "description": "From cart to door",
            "initial": "cart",
            "states": {
                "cart": {
                    "description": "Fill it",
                    "meta": {"icon": "cart"},
                    "on": {
                        "CHECKOUT": "payment",
                        "CLEAR": {"target": "cart", "reenter": True, "description": "All"},
                    },
                },
                "payment": {
                    "on": {"PAID": {"target": "#order.done"}, "BACK": "cart"},
                    "after": {"900000": "cart"},
                },
                "done": {"type": "final"},
            },
        }
    )
    assert dropped == {}
    assert set(converted) == {"/states"}
    assert "'-'" in converted["/states"]
    assert (flow.flow, flow.initial_step, flow.description) == ("order", "cart", "From cart to door")
    assert ways(flow) == {
        "cart": {"CHECKOUT": "payment", "CLEAR": "cart"},
        "payment": {"PAID": "done", "BACK": "cart", "timeout": "cart"},
        "done": {},
    }
    assert [(step.index, step.service) for step in flow.steps.values()] == [(0, "-"), (1, "-"), (2, "-")]
    assert (flow.steps["cart"].description, flow.steps["cart"].meta) == ("Fill it", {"icon": "cart"})
    assert flow.steps["cart"].transitions["CLEAR"].description == "All"
    timeout = flow.steps["payment"].timeout
    assert timeout is not None
    assert (timeout.transition, timeout.after.total_seconds()) == ("timeout", 900)
    assert flow.steps["payment"].transitions["timeout"].roles == []


def test_code_and_data_of_a_machine_are_listed_as_lost() -> None:
    whole = machine(
        a={
            "entry": "log",
            "exit": ["log"],
            "tags": ["busy"],
            "invoke": {"src": "load", "onDone": "b"},
            "always": {"guard": "ready", "target": "b"},
            "on": {
                "GO": {"target": "b", "guard": "isReady", "actions": "save"},
                "SIZE": {"target": "b", "guard": {"type": "atLeast", "params": {"n": 2}}},
                "*": "b",
                "mouse.*": {"target": "b"},
                "xstate.error.actor.load": "b",
            },
            "after": {"slow": "b"},
            "nonsense": 1,
        },
        b={"type": "final", "output": {"n": 1}, "entry": [], "tags": [], "invoke": []},
    )
    whole |= {"context": {"n": 0}, "output": 5, "version": "2", "exit": "log"}
    flow, dropped, _ = imported(whole)
    assert set(dropped) == {
        "/context", "/output", "/version", "/exit",
        "/states/a/entry", "/states/a/exit", "/states/a/tags", "/states/a/invoke", "/states/a/always/guard",
        "/states/a/on/GO/guard", "/states/a/on/GO/actions", "/states/a/on/SIZE/guard", "/states/a/on/*",
        "/states/a/on/mouse.*", "/states/a/after/slow", "/states/a/nonsense", "/states/b/output",
    }  # fmt: skip
    assert dropped["/states/a/exit"].endswith("a flow has none: log")
    assert "isReady" in dropped["/states/a/on/GO/guard"]
    assert "atLeast" in dropped["/states/a/on/SIZE/guard"]
    assert ways(flow) == {
        "a": dict.fromkeys(("GO", "SIZE", "error", "done", "always", "after-slow"), "b"),
        "b": {},
    }


def test_each_candidate_of_an_event_becomes_a_transition() -> None:
    cel = {"type": "cel", "params": {"expression": "payload.n > 1"}}
    flow, dropped, converted = imported(
        machine(
            a={
                "on": {
                    "GO": [{"guard": cel, "target": "b"}, {"guard": "g", "target": "c"}, "a", "b"],
                    "GO-2": "b",
                }
            },
            b={"on": {"GO": {}, "STOP": {"guard": "g"}, "WAIT": [], "SAVE": {"actions": "save"}}},
            c={"type": "final"},
        )
    )
    assert ways(flow) == {
        "a": {"GO": "b", "GO-2-2": "c", "GO-3": "a", "GO-2": "b"},
        "b": {"SAVE": "b"},
        "c": {},
    }
    assert flow.steps["a"].transitions["GO"].guard == "payload.n > 1"
    assert set(dropped) == {
        "/states/a/on/GO/1/guard",
        "/states/a/on/GO/3",
        "/states/b/on/STOP/guard",
        "/states/b/on/SAVE/actions",
    }
    assert "GO-2-2" in converted["/states/a/on/GO/1"]
    assert "GO-3" in converted["/states/a/on/GO/2"]


def test_a_state_in_another_inherits_what_is_around_it() -> None:
    flow, dropped, converted = imported(
        {
            "id": "shop",
            "initial": "buying",
            "on": {"CANCEL": ".cancelled", "HELP": {"target": ".buying.paying"}},
            "states": {
                "buying": {
                    "initial": "choosing",
                    "description": "outer",
                    "on": {"LOGOUT": "cancelled", "TOP": ".choosing"},
                    "after": {"60000": "cancelled"},
                    "onDone": "bought",
                    "states": {
                        "choosing": {"on": {"PAY": "paying", "CANCEL": {}}},
                        "paying": {"on": {"PAID": "done", "LOGOUT": "#top"}},
                        "done": {"type": "final"},
                    },
                },
                "bought": {"on": {"AGAIN": "buying"}},
                "cancelled": {"id": "top", "type": "final"},
            },
        }
    )
    inside = {"LOGOUT": "cancelled", "TOP": "buying-choosing"}
    everywhere = {"CANCEL": "cancelled", "HELP": "buying-paying"}
    assert ways(flow) == {
        "buying-choosing": {"PAY": "buying-paying", **inside, "HELP": "buying-paying"},
        "buying-paying": {"PAID": "bought", **inside, **everywhere},
        "bought": {"AGAIN": "buying-choosing", **everywhere},
        "cancelled": {},
    }  # fmt: skip
    assert flow.initial_step == "buying-choosing"
    assert set(dropped) == {"/states/buying", "/states/buying/after/60000", "/states/buying/states/done"}
    assert "lead to bought" in dropped["/states/buying/states/done"]
    assert "buying-paying" in converted["/states/buying/states/paying"]


@pytest.mark.parametrize(
    ("after", "delay", "dropped"),
    [
        ({"5000": "b", "1000": "c"}, 1, {"/states/a/after/5000"}),
        ({"999": "b", "2000": "c"}, 2, {"/states/a/after/999"}),
        ({"1500": [{"guard": "g", "target": "b"}, "c"]}, None,
         {"/states/a/after/1500/0", "/states/a/after/1500/0/guard", "/states/a/after/1500/1"}),
        ({"1000": {"actions": "n"}, "2000": "c"}, 2,
         {"/states/a/after/1000", "/states/a/after/1000/actions"}),
        ({"1e3": "b", "-5": "c"}, None, {"/states/a/after/1e3", "/states/a/after/-5"}),
        ({"3155760000001": "b"}, None, {"/states/a/after/3155760000001"}),
        ({"1000": {}, "4000": "b"}, 4, set()),
    ],
)  # fmt: skip
def test_of_several_delays_the_earliest_that_can_be_is_the_timeout(
    after: Json, delay: int | None, dropped: set[str]
) -> None:
    flow, listed, _ = imported(
        machine(a={"on": {"GO": "b"}, "after": after}, b={"type": "final"}, c={"type": "final"})
    )
    timeout = flow.steps["a"].timeout
    assert (timeout and timeout.after.total_seconds()) == delay
    assert set(listed) == dropped


def test_time_that_xstate_lets_go_on_is_listed() -> None:
    states: Json = {
        "a": {
            "on": {
                "STAY": "a",
                "NOTE": {"actions": "n"},
                "AGAIN": {"target": "a", "reenter": True},
                "GO": "b",
                "UP": "#m",
            },
            "after": {"5000": "b"},
        },
        "b": {"type": "final"},
    }
    _, _, converted = imported(machine(**states))
    assert {at for at, why in converted.items() if "starts again" in why} == {
        "/states/a/on/STAY",
        "/states/a/on/NOTE",
    }
    del states["a"]["after"]
    _, _, converted = imported(machine(**states))
    assert set(converted) == {"/states"}


def test_names_are_made_legal_and_stay_different() -> None:
    long = "x" * 70
    flow, _, converted = imported(
        {
            "id": "Sign up: now!",
            "initial": "a b",
            "states": {
                "a b": {"on": {"user.clicked": "a-b", "user clicked": "é", "-go": long}},
                "a-b": {"on": {"user-clicked": "é"}},
                "é": {"on": {"ok": "a b"}},
                long: {"type": "final"},
            },
        }
    )
    assert flow.flow == "Sign-up--now"
    assert ways(flow) == {
        "a-b-2": {"user-clicked-2": "a-b", "user-clicked-3": "unnamed", "go": "x" * 64},
        "a-b": {"user-clicked": "unnamed"},
        "unnamed": {"ok": "a-b-2"},
        "x" * 64: {},
    }
    assert {"/id", "/states/a b", "/states/é", f"/states/{long}", "/states/a b/on/-go"} <= set(converted)
    assert "/states/a-b" not in converted
    names = Names(())
    assert [names.legal_name("x" * 70, n) for n in range(3)] == ["x" * 64, "x" * 62 + "-2", "x" * 62 + "-3"]


def test_states_are_named_as_in_xstate_also_when_their_keys_have_dots() -> None:
    flow, _, _ = imported(
        {
            "id": "m",
            "initial": "a.b",
            "states": {
                "a.b": {"on": {"IN": "a.b", "OUT": r"#m.c\.d", "SIDE": r"c\.d"}},
                "a": {"initial": "b", "states": {"b": {"on": {"ID": "#the\\.end"}}}},
                "c.d": {"id": "the.end", "type": "final"},
            },
        }
    )
    assert ways(flow) == {
        "a-b": {"IN": "a-b-2", "OUT": "c-d", "SIDE": "c-d"},
        "a-b-2": {"ID": "c-d"},
        "c-d": {},
    }


@pytest.mark.parametrize(
    ("done", "outer", "to"),
    [
        ("b", {}, "b"),
        ([{"guard": "g", "target": "b"}], {}, "a-x"),
        ({"actions": "n"}, {"*": ".b"}, "a-x"),
        (None, {"*": ".b"}, "b"),
        (None, {"*": ".c", "xstate.*": ".d", "xstate.done.state.*": ".b"}, "b"),
        (None, {"user.*": ".b"}, "a-x"),
    ],
)
def test_a_state_that_is_done_is_left_as_in_xstate(done: Any, outer: Json, to: str) -> None:
    inside = {"initial": "x", "states": {"x": {"type": "final"}}, "onDone": done}
    whole = machine(a=inside, b={"type": "final"}, c={"type": "final"}, d={"type": "final"}) | {"on": outer}
    assert from_xstate(whole).flow["initialStep"] == to


@given(st.lists(st.text(max_size=70), unique=True, max_size=30))
def test_names_are_legal_different_and_their_own_where_they_can_be(given_names: list[str]) -> None:
    names = Names(given_names)
    made = [names.legal_name(name) for name in given_names]
    assert len(set(made)) == len(made)
    assert made == [names.legal_name(name) for name in given_names]
    raw = flow_dict()
    for name, new in zip(given_names, made, strict=True):
        step = {**raw["steps"]["c"], "step": new}
        assert not _errors({**raw, "steps": {new: {**step, "index": 0}}, "initialStep": new})
        if (
            len(name) <= 64
            and name.isascii()
            and name.replace("-", "").replace("_", "").isalnum()
            and name[0] != "-"
        ):
            assert new == name


def _errors(raw: Json) -> list[Any]:
    try:
        parse_flow(raw)
    except InvalidDefinitionError as refusal:
        return refusal.faults
    return []


@given(st.text(max_size=80))
def test_a_slug_is_legal_or_none(text: str) -> None:
    slug = slug_of(text)
    assert slug == "" or not _errors(flow_dict(slug))
    if text and not _errors(flow_dict(text)):
        assert slug == text


def test_a_state_without_a_way_out_that_is_not_final_is_listed() -> None:
    flow, _, converted = imported(machine(a={"on": {"GO": "b"}}, b={}))
    assert ways(flow)["b"] == {}
    assert "ends the flow" in converted["/states/b"]


def test_a_machine_that_was_exported_and_changed_is_a_flow_too() -> None:
    written = to_xstate(sound(expense_flow())).machine
    review = written["states"]["review"]
    review["on"]["withdraw"]["target"] = "rejected"
    review["on"]["escalate"] = "approved"
    del review["on"]["reject"]
    hour = {"target": "rejected", "meta": {"server-flow": {"transition": "withdraw", "resume": "absolute"}}}
    review["after"] = {"3600000": hour}
    written["states"]["more"] = {"on": {"back": "draft"}}
    flow, dropped, converted = imported(written)
    assert dropped == {}
    assert set(converted) == {"/states"}
    assert ways(flow)["review"] == {"approve": "approved", "withdraw": "rejected", "escalate": "approved"}
    step = flow.steps["review"]
    assert step.transitions["withdraw"].reversible
    assert step.transitions["approve"].roles == ["approver"]
    assert step.timeout == FlowTimeout(timedelta(hours=1), "withdraw", "absolute")
    assert (flow.steps["more"].index, flow.steps["more"].service) == (4, "-")


@pytest.mark.parametrize(
    "other", [{"target": "draft"}, {"meta": {"server-flow": {"transition": "approve"}}}, {}]
)
def test_a_timeout_that_does_not_what_a_transition_does_has_one_of_its_own(other: Json) -> None:
    written = to_xstate(sound(expense_flow())).machine
    after = {"target": "approved", "description": "At last"}
    written["states"]["review"]["after"] = {"3600000": {**after, **other}}
    flow, _, _ = imported(written)
    step = flow.steps["review"]
    assert step.timeout == FlowTimeout(timedelta(hours=1), "timeout")
    assert step.transitions["timeout"] == FlowTransition(
        "timeout", other.get("target", "approved"), roles=[], description="At last"
    )


def test_a_timeout_that_was_retained_as_data_does_not_count_beside_the_states_own() -> None:
    raw = expense_flow()
    raw["steps"]["review"]["timeout"]["after"] = "P60D"
    written = to_xstate(sound(raw)).machine
    assert sound(from_xstate(written).flow).steps["review"].timeout == FlowTimeout(
        timedelta(days=60), "remind"
    )
    written["states"]["review"]["after"] = {"5000": "draft"}
    flow, dropped, _ = imported(written)
    assert flow.steps["review"].timeout == FlowTimeout(timedelta(seconds=5), "timeout")
    assert set(dropped) == {"/states/review"}


Spoil = Callable[[Json], object]


def on(machine: Json) -> Json:
    events: Json = machine["states"]["a"]["on"]
    return events


@pytest.mark.parametrize(
    ("spoil", "pointer", "says"),
    [
        (lambda m: m.pop("id"), "/id", "name of the flow"),
        (lambda m: m.update(id="!"), "/id", "name of the flow"),
        (lambda m: m.update(id=5), "/id", "text"),
        (lambda m: m.pop("initial"), "/initial", "one of a, b"),
        (lambda m: m.update(initial="x"), "/initial", "no state 'x'"),
        (lambda m: m.update(initial={"target": "x"}), "/initial", "no state 'x'"),
        (lambda m: m.update(states={}), "/states", "at least one"),
        (lambda m: m.update(states=[]), "/states", "object"),
        (lambda m: m["states"].update(a=None), "/states/a", "object"),
        (lambda m: m["states"].update({"a/b~": 1}), "/states/a~1b~0", "object"),
        (lambda m: m.update(type="parallel"), "/type", "one step at a time"),
        (lambda m: m["states"]["a"].update(type="parallel"), "/states/a/type", "one step at a time"),
        (lambda m: m["states"]["a"].update(type="history"), "/states/a/type", "history"),
        (lambda m: m["states"]["a"].update(history="deep"), "/states/a/history", "history"),
        (lambda m: m["states"]["a"].update(type="odd"), "/states/a/type", "atomic, compound"),
        (lambda m: m["states"]["a"].update(type={}), "/states/a/type", "atomic, compound"),
        (lambda m: m["states"]["a"].update(type="compound"), "/states/a/type", "no states"),
        (lambda m: m["states"]["b"].update(states={"c": {}}, initial="c"), "/states/b/type", "there are"),
        (lambda m: m["states"]["a"].update(on=5), "/states/a/on", "object"),
        (lambda m: m["states"]["a"].update(on={"": "b"}), "/states/a/on/", "always"),
        (lambda m: m["states"]["a"].update(on={"E" * 300: "b"}), f"/states/a/on/{'E' * 300}", "longer"),
        (lambda m: on(m).update(GO="x"), "/states/a/on/GO", "no state 'x'"),
        (lambda m: on(m).update({"*": "x"}), "/states/a/on/*", "no state 'x'"),
        (lambda m: on(m).update(GO="#x.y"), "/states/a/on/GO", "no state '#x.y'"),
        (lambda m: on(m).update(GO=None), "/states/a/on/GO", "forbids"),
        (lambda m: on(m).update(GO=[7]), "/states/a/on/GO/0", "forbids"),
        (lambda m: on(m).update(GO={"target": 7}), "/states/a/on/GO/target", "name of a state"),
        (lambda m: on(m).update(GO={"target": ["a", "b"]}), "/states/a/on/GO/target", "parallel"),
        (lambda m: on(m).update(GO={"target": "b", "cond": "c"}), "/states/a/on/GO/cond", "v4"),
        (lambda m: on(m).update(GO={"target": "b", "guard": 5}), "/states/a/on/GO/guard", "name"),
        (lambda m: on(m).update(GO={"target": "b", "meta": 5}), "/states/a/on/GO/meta", "object"),
        (lambda m: m.update(on={"GO": "b"}), "/on/GO", ".b"),
        (lambda m: m.update(after=[]), "/after", "object"),
        (lambda m: m.update(description=5), "/description", "text"),
        (lambda m: m.update(meta={"server-flow": 5}), "/meta/server-flow", "object"),
        (lambda m: [s.update(id="x") for s in m["states"].values()], "/states/b/id", "another state"),
        (lambda m: m.update(context=float("nan")), "/context", "finite"),
    ],
)  # fmt: skip
def test_what_is_no_machine_or_none_for_a_flow_is_refused_with_its_place(
    spoil: Spoil, pointer: str, says: str
) -> None:
    whole = machine(a={"on": {"GO": "b"}}, b={"type": "final"})
    from_xstate(whole)
    spoil(whole)
    assert says in faults_of(whole)[pointer]


@pytest.mark.parametrize("raw", [None, 1, "x", [], {}, True, {"steps": {}}])
def test_anything_can_be_refused(raw: object) -> None:
    assert faults_of(raw)


@pytest.mark.parametrize("member", ["index", "service", "transitions", "timeout", "roles", "meta"])
@pytest.mark.parametrize("odd", [[], {}, "x", [7], None])
def test_what_was_written_into_our_own_member_is_for_the_check_of_the_flow(member: str, odd: Any) -> None:
    whole = machine(a={"on": {"GO": "b"}, "meta": {"server-flow": {member: odd}}}, b={"type": "final"})
    done = from_xstate(whole)
    assert done.flow["steps"]["a"]["transitions"] == {"GO": {"transition": "GO", "step": "b"}}
    assert all(finding.pointer.startswith("/steps/a") for finding in check_flow(done.flow))


@many
@given(
    st.one_of(machines(wildcards=True), flows().map(lambda flow: to_xstate(flow).machine)).flatmap(spoiled)
)
def test_what_is_almost_a_machine_is_imported_or_refused(machine: Json) -> None:
    with suppress(InvalidDefinitionError):
        check_flow(from_xstate(machine).flow)


def test_all_faults_come_at_once() -> None:
    whole = machine(a={"type": "parallel", "on": {"GO": 5}}, b={"type": "history"})
    assert set(faults_of(whole)) == {"/states/a/type", "/states/a/on/GO", "/states/b/type"}


def test_a_machine_that_never_rests_is_refused() -> None:
    round_and_round = {"initial": "x", "states": {"x": {"type": "final"}}, "onDone": "b"}
    whole = machine(a={"on": {"GO": "b"}}, b={**round_and_round, "onDone": "c"}, c={**round_and_round})
    assert "without end" in next(iter(faults_of(whole).values()))


def test_machines_that_would_be_too_much_are_refused() -> None:
    many_states: dict[str, Json] = {f"s{n}": {} for n in range(501)}
    assert "500" in faults_of(machine(**many_states))["/states"]
    fewer = dict(list(many_states.items())[:450])
    inherited = {f"E{n}": ".s0" for n in range(MAX_TRANSITIONS // 800)}
    candidates = [{"guard": "g", "target": ".s0"}] * (MAX_TRANSITIONS // 400)
    for on in (inherited, {"E": candidates}):
        assert str(MAX_TRANSITIONS) in faults_of(machine(**fewer) | {"on": on})["/states"]
    from_xstate(machine(**fewer) | {"on": dict(list(inherited.items())[:20])})
    deep: Json = {}
    for _ in range(40):
        deep = {"initial": "a", "states": {"a": deep}}
    assert "nested" in next(iter(faults_of(machine(a=deep)).values()))


def test_the_shipped_flows_go_there_and_back(shipped: Path) -> None:
    for file in sorted(shipped.glob("*.json")):
        flow = sound(json.loads(file.read_text()))
        assert exactly(sound(from_xstate(to_xstate(flow).machine).flow)) == exactly(flow)
        assert exactly(sound(decode(flow_to_yaml(flow).encode(), ".yaml", ""))) == exactly(flow)


def test_one_thing_is_listed_once() -> None:
    done = from_xstate(
        machine(a={"initial": "x", "after": {"5000": "b"}, "states": {"x": {}, "y": {}}}, b={"type": "final"})
    )
    assert [each for each in done.not_carried if each.pointer == "/states/a/after/5000"] == [
        Unconverted("/states/a/after/5000", "its time goes on over several steps; a timeout is of one step"),
        Unconverted(
            "/states/a/after/5000",
            "your program runs the transition after-5000 5000 ms after the state began",
            converted=True,
        ),
    ]
