"""The check of roles on states and of rules between people, each beside what it accepts."""

import re
from typing import Any

import pytest

from app.flow.validation import check_flow, parse_flow
from app.sources.formats import decode
from tests.support.corpus import BROKEN, read
from tests.support.documentation import block, page

Raw = dict[str, Any]


def purchase(**members: Any) -> Raw:
    """A request that the owner submits to an approver, whom two of finance follow."""

    def step(index: int, name: str, **transitions: Raw) -> Raw:
        named = {key: {"transition": key, **each} for key, each in transitions.items()}
        return {"index": index, "step": name, "service": "svc", "transitions": named}

    schema = {"required": ["approver"], "properties": {"approver": {"type": "string"}}}
    assign = [{"role": "approver", "from": "payload.approver"}]
    votes = {"of": "finance", "count": 2}
    return {
        "flow": "purchase",
        "initialStep": "draft",
        "instances": "many",
        "resettable": False,
        "clearable": False,
        "participants": {
            "approver": {"claim": "PT1H"},
            "finance": {"group": "finance", "title": "Finance"},
        },
        "steps": {
            "draft": step(0, "draft", submit={"step": "review", "assign": assign, "payloadSchema": schema}),
            "review": step(
                1,
                "review",
                approve={"step": "pay", "roles": ["approver"], "notBy": ["submit"]},
                refuse={"step": "refused", "roles": ["approver"]},
            ),
            "pay": step(
                2,
                "pay",
                release={
                    "step": "paid", "roles": ["finance"], "approvals": votes, "notBy": ["submit", "approve"],
                },
            ),
            "paid": step(3, "paid"),
            "refused": step(4, "refused"),
        },
        **members,
    }  # fmt: skip


SUBMIT, APPROVE = "/steps/draft/transitions/submit", "/steps/review/transitions/approve"
RELEASE = "/steps/pay/transitions/release"


def changed(**changes: Any) -> Raw:
    """The flow with members of roles (``approver__claim``) or of transitions (``submit__assign``) set, or
    removed by None."""
    raw = purchase()
    transitions = {name: each for step in raw["steps"].values() for name, each in step["transitions"].items()}
    for path, value in changes.items():
        name, _, member = path.partition("__")
        part = transitions.get(name) or raw["participants"].setdefault(name, {})
        if value is None:
            del part[member]
        else:
            part[member] = value
    return raw


def of_ids(**schema: Any) -> Raw:
    return {"required": ["approver"], "properties": {"approver": schema}}


def test_a_flow_with_people_is_sound() -> None:
    assert check_flow(purchase()) == []
    flow, _ = parse_flow(purchase())
    assert flow.participants is not None
    assert flow.participants["approver"].claim is not None


@pytest.mark.parametrize(
    ("raw", "severity", "pointer", "message", "advice"),
    [
        (purchase(instances="meny"), "error", "/instances", "is not one of", '"one" or "many"'),
        (changed(approver__claim="1 hour"), "error", "/participants/approver/claim", "ISO 8601", "PT15M"),
        (changed(approver__claim="PT0.5S"), "error", "/participants/approver/claim", "of 1 s", "PT15M"),
        (changed(approver__claim=5), "error", "/participants/approver/claim", "string", "ISO 8601"),
        (changed(approver__takover=["finance"]), "error", "/participants/approver", "takover",
         "write 'takeOver' for 'takover'"),
        (changed(finance__title="x" * 201), "error", "/participants/finance/title", "longer", "shorten"),
        (changed(finance__group=" x"), "error", "/participants/finance/group", "not a group", "`groups`"),
        (changed(finance__assignable=["ap prover\t"]), "error", "/participants/finance/assignable/0",
         "is not a role", "`roles`"),
        (changed(finance__assignable="yes"), "error", "/participants/finance/assignable", "not valid",
         "true, false"),
        (changed(finance__assignable=[]), "warning", "/participants/finance/assignable", "No role may name",
         "write false"),
        (changed(finance__assignable=["aprover"]), "warning", "/participants/finance/assignable/0",
         "no role of `participants`", "did you mean 'approver'?"),
        (changed(approver__takeOver=["finanze"]), "error", "/participants/approver/takeOver/0",
         "no role 'finanze'", "did you mean 'finance'?"),
        (changed(finance__takeOver=["approver"]), "warning", "/participants/finance/takeOver",
         "nothing to take over", "add \"claim\""),
        (changed(finance__claim="PT1H"), "warning", "/participants/finance/claim", "has `approvals`",
         "without `approvals`"),
        (changed(clerk__group="it", clerk__claim="PT1H"), "warning", "/participants/clerk/claim",
         "no transition lists", "leave it out"),
        (changed(clerk__title="Clerk"), "warning", "/participants/clerk", "Nobody can get", "group"),
        (changed(clerk__assignable=["clerk"]), "warning", "/participants/clerk/assignable",
         "Nobody can get this role", "write true"),
        (changed(submit__assign=[{"role": "finanse", "from": "payload.approver"},
                                 {"role": "approver", "from": "payload.approver"}]),
         "error", f"{SUBMIT}/assign/0/role", "no role 'finanse'", "did you mean 'finance'?"),
        (changed(submit__assign=[{"role": "approver", "from": "payload.approver"}] * 2), "warning",
         f"{SUBMIT}/assign/1/role", "assigned twice", "once"),
        (changed(submit__assign=[{"role": "approver", "from": "approver"}]), "error",
         f"{SUBMIT}/assign/0/from", "not a member of the payload", "write payload."),
        (changed(submit__assign=[{"role": "approver", "from": "payload.a.b"}]), "error",
         f"{SUBMIT}/assign/0/from", "not a member of the payload", "write payload."),
        (changed(submit__assign=[{"role": "approver"}]), "error", f"{SUBMIT}/assign/0", "from",
         "add 'from': the member of the payload"),
        (changed(submit__payloadSchema={"properties": {"approver": {"type": "string"}}}), "warning",
         f"{SUBMIT}/assign/0/from", "does not require 'approver'", "`required`"),
        (changed(submit__payloadSchema=of_ids(type="number")), "error", f"{SUBMIT}/assign/0/from",
         "neither the id", "string"),
        (changed(approve__notBy=["submitt"]), "error", f"{APPROVE}/notBy/0", "no transition 'submitt'",
         "did you mean 'submit'?"),
        (changed(approve__notBy=["submit", "submit"]), "warning", f"{APPROVE}/notBy/1",
         "listed twice", "once"),
        (changed(approve__notBy=[]), "warning", f"{APPROVE}/notBy", "is empty", "leave it out"),
        (changed(approve__notBy="submit"), "error", f"{APPROVE}/notBy", "not of type", "a list of names"),
        (changed(approve__notBy=["submit"] + ["x"] * 100), "error", f"{APPROVE}/notBy", "more than 100",
         "shorten"),
        (changed(approve__notBy=["release"]), "warning", f"{APPROVE}/notBy/0", "excludes nobody", "before"),
        (changed(release__approvals={"of": "finanze", "count": 2}), "error", f"{RELEASE}/approvals/of",
         "no role 'finanze'", "did you mean 'finance'?"),
        (changed(release__roles=["finance", "approver"]), "warning", f"{RELEASE}/roles",
         "not those with 'approver'", "a transition of their own"),
        (changed(release__approvals={"of": "finance", "count": 0}), "error", f"{RELEASE}/approvals/count",
         "1 or more", "from 2"),
        (changed(release__approvals={"of": "finance", "count": 101}), "error", f"{RELEASE}/approvals/count",
         "at most 100", "from 2"),
        (changed(release__approvals={"of": "finance", "count": 2.0}), "error", f"{RELEASE}/approvals/count",
         "no fraction", "write 2"),
        (changed(release__approvals={"of": "finance", "count": 1}), "warning", f"{RELEASE}/approvals/count",
         "One vote is no vote", "2 or more"),
        (changed(release__approvals={"of": "finance"}), "error", f"{RELEASE}/approvals", "count",
         "add 'count': the number of votes"),
    ],
)  # fmt: skip
def test_a_fault_is_found_alone(raw: Raw, severity: str, pointer: str, message: str, advice: str) -> None:
    (finding,) = check_flow(raw)
    assert (finding.severity, finding.pointer) == (severity, pointer)
    assert message in finding.message
    assert advice in finding.advice


def found_in(raw: Raw) -> list[tuple[str, str]]:
    return [(finding.pointer, finding.message) for finding in check_flow(raw)]


def test_a_fault_has_consequences() -> None:
    """A misspelt role is one of tokens, and one vote too many is none."""
    mixed, misspelt = check_flow(changed(approve__roles=["approver", "finanze"]))
    assert (mixed.pointer, misspelt.pointer) == (SUBMIT, f"{APPROVE}/roles/1")
    assert misspelt.advice == "did you mean 'finance'?"
    raw = changed(release__approvals={"of": "approver", "count": 2})
    refused, never = check_flow(raw)
    assert (refused.severity, refused.pointer) == ("warning", f"{RELEASE}/approvals/of")
    assert "may not vote" in refused.message
    assert (never.severity, never.pointer) == ("warning", f"{RELEASE}/approvals/count")
    assert "at most one person has the role 'approver'" in never.message
    undone, opened = check_flow(changed(release__reversible=True))
    assert "one of them may undo" in undone.message
    assert opened.pointer == f"{RELEASE}/reversible"


@pytest.mark.parametrize(
    ("schema", "most"),
    [
        (of_ids(type="string"), 1),
        (of_ids(type=["string", "null"]), 1),
        (of_ids(const="ada"), 1),
        (of_ids(enum=["ada", ["ada", "bob"]]), 2),
        (of_ids(type="array", maxItems=3), 3),
        (of_ids(type=["array", "string"], maxItems=0), 1),
        (of_ids(**{"$ref": "#/$defs/people"}) | {"$defs": {"people": {"type": "array", "maxItems": 4}}}, 4),
        (of_ids(type="array"), 100),
        (of_ids(), 100),
        (of_ids(type="array", maxItems=1000), 100),
    ],
)
def test_votes_are_bounded_by_the_list_of_people(schema: Raw, most: int) -> None:
    for count in (2, most, most + 1):
        votes = {"of": "approver", "count": count}
        raw = changed(
            submit__payloadSchema=schema,
            approve__approvals=votes,
            approver__claim=None,
            approve__roles=["approver"],
        )
        messages = [message for pointer, message in found_in(raw) if pointer == f"{APPROVE}/approvals/count"]
        if count == 1:
            assert messages == ["One vote is no vote: whoever runs the transition moves the state"]
        elif count > 100:
            assert "at most 100" in messages[0]
        else:
            assert bool(messages) == (count > most), (count, messages)


@pytest.mark.parametrize(
    "other",
    [{"approver__group": "chiefs"}, {"approver__assignable": True}, {"approver__assignable": ["finance"]}],
)
def test_votes_are_not_bounded_where_others_get_the_role(other: Raw) -> None:
    votes = {"of": "approver", "count": 50}
    raw = changed(approve__approvals=votes, approver__claim=None, **other)
    assert check_flow(raw) == []


def test_votes_without_roles_are_those_of_the_voters() -> None:
    raw = changed(release__roles=None)
    assert check_flow(raw) == []
    raw["steps"]["pay"]["transitions"]["release"]["approvals"] = {"of": "approver", "count": 2}
    assert [pointer for pointer, _ in found_in(raw)] == [f"{RELEASE}/approvals/count"]


def test_a_timeout_assigns_but_does_not_vote() -> None:
    """The payload of the state has what it assigns."""
    raw = purchase()
    late: Raw = {"transition": "late", "step": "refused", "roles": []}
    late["assign"] = [{"role": "approver", "from": "payload.deputy"}]
    raw["steps"]["pay"]["transitions"]["late"] = late
    raw["steps"]["pay"]["timeout"] = {"after": "P1D", "transition": "late"}
    assert check_flow(raw) == []
    late["payloadSchema"] = {"properties": {"deputy": {"type": "string"}}}
    assert check_flow(raw) == [], "it comes without a payload, which a schema must accept"
    late |= {"approvals": {"of": "finance", "count": 2}, "roles": ["finance"]}
    (finding,) = check_flow(raw)
    assert (finding.severity, finding.pointer) == ("error", "/steps/pay/transitions/late/approvals")
    assert "without any vote" in finding.message
    assert "transition of its own" in finding.advice


def test_a_timeout_is_not_excluded_and_excludes_nobody() -> None:
    raw = purchase()
    late = {"transition": "late", "step": "pay", "roles": [], "notBy": ["submit"]}
    raw["steps"]["pay"]["transitions"]["late"] = late
    raw["steps"]["pay"]["timeout"] = {"after": "P1D", "transition": "late"}
    raw["steps"]["pay"]["transitions"]["release"]["notBy"] = ["late"]
    found = found_in(raw)
    assert [pointer for pointer, _ in found] == [f"{RELEASE}/notBy/0", "/steps/pay/transitions/late/notBy"]
    assert "no person runs it" in found[0][1]
    assert "only the timeout" in found[1][1]


def test_a_role_that_nobody_can_get() -> None:
    """By a group, by callers, by a transition, by a role that others get, or on purpose by services alone."""
    assert found_in(changed(clerk__title="x"))[0][0] == "/participants/clerk"
    for member, value in (("group", "it"), ("assignable", True), ("assignable", False)):
        assert check_flow(changed(**{f"clerk__{member}": value})) == []
    assert check_flow(changed(clerk__assignable=["approver"])) == []
    both = changed(clerk__assignable=["chief"], chief__assignable=["clerk"])
    assert [pointer for pointer, _ in found_in(both)] == [
        "/participants/clerk/assignable",
        "/participants/chief/assignable",
    ]
    assert check_flow(changed(clerk__assignable=["chief"], chief__assignable=["clerk", "finance"])) == []


@pytest.mark.parametrize("member", ["resettable", "clearable"])
def test_a_misspelt_role_that_may_reset_or_clear(member: str) -> None:
    (finding,) = check_flow(purchase(**{member: ["finance", "aprover"]}))
    assert (finding.severity, finding.pointer) == ("warning", f"/{member}/1")
    assert finding.advice == "did you mean 'approver'?"
    assert check_flow(purchase(**{member: ["finance", "manager"]})) == []


def test_a_role_of_tokens_may_name_people() -> None:
    raw = changed(finance__assignable=["employee"])
    assert "only owners of states can have it" in found_in(raw)[0][1]
    assert check_flow(raw | {"roles": ["employee"]}) == []


def test_mixed_roles_are_those_of_tokens() -> None:
    """Beside roles of participants, a transition without roles is for the owner."""
    raw = changed(refuse__roles=["manager"])
    assert [(pointer, message[:11]) for pointer, message in found_in(raw)] == [(SUBMIT, "Mixed roles")]


def test_too_many_roles() -> None:
    raw = purchase()
    raw["participants"] |= {f"r{n}": {"group": "x"} for n in range(98)}
    assert check_flow(raw) == []
    raw["participants"]["r98"] = {"group": "x"}
    assert found_in(raw) == [("/participants", "The flow declares more than 100 roles")]


def test_a_role_that_is_assigned_later() -> None:
    raw = changed(submit__assign=None, submit__payloadSchema=None)
    again = {"step": "draft", "roles": ["finance"], "assign": [{"role": "approver", "from": "payload.who"}]}
    raw["steps"]["paid"]["transitions"] = {"again": {"transition": "again", **again, "step": "paid"}}
    late = [pointer for pointer, message in found_in(raw) if "yet" in message]
    assert late == [f"{APPROVE}/roles", "/steps/review/transitions/refuse/roles"]
    raw["steps"]["paid"]["transitions"]["again"]["step"] = "draft"
    assert not [pointer for pointer, message in found_in(raw) if "yet" in message]
    raw["steps"]["paid"]["transitions"]["again"]["step"] = "paid"
    raw["participants"]["approver"]["assignable"] = False
    assert not [pointer for pointer, message in found_in(raw) if "yet" in message]


PAGE = "docs/reference/definitions.md"


def test_the_documented_flow_is_sound() -> None:
    raw = decode(block(PAGE, "yaml", "instances: many").encode(), ".yaml", "purchase.yaml")
    assert check_flow(raw) == []
    assert check_flow(raw | {"participants": {"finance": {"group": "finance"}}}) != []


def test_the_documented_warnings_are_given() -> None:
    table, _, _ = page(PAGE).partition("| warning | reason |")[2].partition("\n\n")
    rows = table.splitlines()[2:]
    phrases = [phrase for row in rows for phrase in re.findall("`([^`]+)`", row.split("|")[1])]
    assert len(phrases) >= 12
    given = [finding.message for file in BROKEN for finding in check_flow(read(file))]
    assert [phrase for phrase in phrases if not any(phrase in message for message in given)] == []
