"""Definitions out and in, over HTTP and on the command line."""

import json
import uuid
from typing import Any

import httpx
import pytest

from app.exchange.xstate_import import from_xstate
from app.sources.formats import decode
from config.settings import SHIPPED_FLOWS
from tests.support.samples import expense_flow, flow_dict
from tests.support.serving import Serving
from tests.support.shell import Shell

Json = dict[str, Any]
SIGN_IN = json.loads((SHIPPED_FLOWS / "sign-in.json").read_text())


def order_machine(slug: str) -> Json:
    """A machine as one writes it for XState; its guard is code."""
    return {
        "id": slug,
        "initial": "cart",
        "context": {"items": []},
        "states": {
            "cart": {
                "on": {"PAY": {"target": "paid", "guard": "isFull"}, "item.add": {"actions": "addItem"}}
            },
            "paid": {"invoke": {"src": "sendOut", "onDone": "sent"}},
            "sent": {"type": "final"},
        },
    }


@pytest.fixture
def slug() -> str:
    """A flow that no other test has."""
    return f"flow-{uuid.uuid4().hex[:8]}"


async def test_a_flow_is_given_out_in_each_format(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        plain = await http.get("/api/flows/sign-in/export")
        assert plain.json() == SIGN_IN
        assert plain.headers["content-type"] == "application/json"
        yaml = await http.get("/api/flows/sign-in/export?format=yaml")
        assert yaml.headers["content-type"].startswith("application/yaml")
        assert decode(yaml.content, ".yaml", "") == SIGN_IN
        assert yaml.text.startswith("flow: sign-in\n")
        machine = await http.get("/api/flows/sign-in/export?format=xstate")
        assert from_xstate(machine.json()["machine"]).flow == SIGN_IN
        assert {
            "pointer": "/steps/choice/initial",
            "reason": "XState starts at its only initial state",
            "kept": True,
        } in (machine.json()["notCarried"])
        for answer in (plain, yaml, machine):
            assert (answer.headers["etag"], answer.headers["flow-version"]) == ('"1"', "1")
        assert (await http.get("/api/flows/sign-in/export?format=toml")).status_code == 422
        assert (await http.get("/api/flows/sign-in/export?version=0")).status_code == 422
        assert (await http.get("/api/flows/sign-in/export?version=2")).json()["code"] == "FLOW_NOT_FOUND"


async def test_a_version_is_given_out_when_it_is_asked_for(serving: Serving, user: str, slug: str) -> None:
    async with serving.http(user, "flow:admin") as http:
        for title in ("One", "Two"):
            await http.post("/api/flows/import", json=flow_dict(slug, title=title))
        for version, title in ((1, "One"), (2, "Two"), (None, "Two")):
            asked = {} if version is None else {"version": version}

            async def export(form: str, asked: Json = asked) -> httpx.Response:
                return await http.get(f"/api/flows/{slug}/export", params={"format": form, **asked})

            assert (await export("json")).json()["title"] == title
            assert decode((await export("yaml")).content, ".yaml", "")["title"] == title
            machine = (await export("xstate")).json()["machine"]
            assert machine["meta"]["server-flow"]["title"] == title


async def test_who_may_not_see_a_flow_is_not_given_it(serving: Serving, user: str, slug: str) -> None:
    async with serving.http(user, "flow:admin") as http:
        await http.post("/api/flows/import", json=flow_dict(slug, roles=["clerk"]))
    async with serving.http(user) as http:
        for asked in ("", "?format=yaml", "?format=xstate", "?version=1"):
            answer = await http.get(f"/api/flows/{slug}/export{asked}")
            assert (answer.status_code, answer.json()["code"]) == (403, "INSUFFICIENT_PERMISSIONS")


async def test_a_definition_is_published_when_it_differs(serving: Serving, user: str, slug: str) -> None:
    async with serving.http(user, "flow:admin") as http:
        first = await http.post("/api/flows/import", json=expense_flow(flow=slug))
        assert (first.status_code, first.headers["location"]) == (201, f"/api/flows/{slug}")
        findings = first.json()["findings"]
        assert [found["severity"] for found in findings] == ["warning"] * 4
        assert "Mixed roles" in findings[2]["message"]
        done = {"flow": slug, "version": 1, "published": True, "notCarried": [], "findings": findings}
        assert first.json() == done
        again = await http.post("/api/flows/import?format=json", json=expense_flow(flow=slug))
        assert (again.status_code, again.json()["published"], again.json()["version"]) == (200, False, 1)
        machine = (await http.get(f"/api/flows/{slug}/export?format=xstate")).json()["machine"]
        same = await http.post("/api/flows/import?format=xstate", json=machine)
        assert (same.status_code, same.json()) == (
            200,
            {**done, "published": False},
        )


async def test_a_machine_is_published_and_runs(serving: Serving, user: str, slug: str) -> None:
    async with serving.http(user, "flow:admin") as http:
        dry = await http.post("/api/flows/import?format=xstate&dryRun=true", json=order_machine(slug))
        assert (dry.status_code, dry.json()["published"]) == (200, False)
        assert (await http.get(f"/api/flows/{slug}")).status_code == 404
        done = await http.post("/api/flows/import?format=xstate", json=order_machine(slug))
        assert (done.status_code, done.json()["version"]) == (201, 1)
        assert (await http.get(f"/api/flows/{slug}/export")).json() == dry.json()["definition"]
        listed = {each["pointer"]: each.get("kept", False) for each in done.json()["notCarried"]}
        assert listed == {
            "/context": False,
            "/states/cart/on/PAY/guard": False,
            "/states/cart/on/item.add/actions": False,
            "/states/cart/on/item.add": True,
            "/states": True,
            "/states/paid/invoke": False,
            "/states/paid/invoke/onDone": True,
        }
        assert (await http.post(f"/api/flow/{slug}/start")).json()["step"] == "cart"
        added = await http.post(f"/api/flow/{slug}/transition/item-add", json={"payload": {"item": 7}})
        assert (added.json()["step"], added.json()["payload"]) == ("cart", {"item": 7})
        assert (await http.post(f"/api/flow/{slug}/transition/PAY")).json()["status"] == "active"
        assert (await http.post(f"/api/flow/{slug}/transition/done")).json()["status"] == "completed"


async def test_what_is_no_machine_is_refused_with_every_fault(serving: Serving, user: str, slug: str) -> None:
    machine = order_machine(slug)
    machine["states"]["cart"]["type"] = "parallel"
    machine["states"]["paid"]["on"] = {"BACK": 5}
    async with serving.http(user, "flow:admin") as http:
        answer = await http.post("/api/flows/import?format=xstate", json=machine)
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_DEFINITION")
        pointers = [fault["pointer"] for fault in answer.json()["details"]["errors"]]
        assert pointers == ["/states/cart/type", "/states/paid/on/BACK"]
        wrong = await http.post("/api/flows/import", json=machine)
        assert (wrong.status_code, wrong.json()["code"]) == (422, "INVALID_DEFINITION")
        assert (await http.get("/api/flows/import")).json()["code"] == "FLOW_NOT_FOUND"


def test_the_command_line_exports_each_format(shell: Shell) -> None:
    assert json.loads(shell("flows", "export", "sign-in")) == SIGN_IN
    assert decode(shell("flows", "export", "sign-in", "--format", "yaml").encode(), ".yaml", "") == SIGN_IN
    printed = shell("flows", "export", "sign-in", "--format", "xstate", "--version", "1")
    machine, end = json.JSONDecoder().raw_decode(printed)
    assert from_xstate(machine).flow == SIGN_IN
    listed = printed[end:].strip().splitlines()
    assert "sign-in: steps.choice.initial: converted: XState starts at its only initial state" in listed
    assert "no version 2" in shell("flows", "export", "sign-in", "--version", "2", code=1)


def test_the_command_line_imports_machines(shell: Shell) -> None:
    (shell.cwd / "order.json").write_text(json.dumps(order_machine("order")))
    printed = shell("flows", "import", "order.json", "--format", "xstate")
    assert "order.json: order v1 published\n" in printed
    assert "order.json: context: dropped: " in printed
    connect = "your program runs the transition done when the actor sendOut has ended"
    assert f"order.json: states.paid.invoke.onDone: converted: {connect}\n" in printed
    assert (
        "order.json: states.cart.on.item.add: converted: the event item.add is the transition item-add\n"
        in printed
    )
    assert "order v1 is the same already" in shell("flows", "import", "order.json", "--format", "xstate")
    (shell.cwd / "expense.json").write_text(json.dumps(expense_flow()))
    warned = "expense.json: steps.draft.transitions.submit: warning: Mixed roles: "
    assert warned in shell("flows", "import", "expense.json")
    assert warned in shell("flows", "import", "expense.json", "--dry-run")
    (shell.cwd / "order.yaml").write_text(shell("flows", "export", "order", "--format", "yaml"))
    assert "order v1 is the same already" in shell("flows", "import", "order.yaml")


def test_a_dry_import_needs_no_server_and_prints_the_definition(shell: Shell) -> None:
    shell.env = {}
    machine = order_machine("order")
    machine["states"]["\x1b[2Jx"] = {"type": "final"}
    (shell.cwd / "order.json").write_text(json.dumps(machine))
    printed = shell("flows", "import", "order.json", "--format", "xstate", "--dry-run")
    definition, end = json.JSONDecoder().raw_decode(printed)
    assert definition == from_xstate(machine).flow
    assert "isFull" in printed[end:]
    assert "\x1b" not in printed
    machine["states"]["cart"]["type"] = "parallel"
    (shell.cwd / "order.json").write_text(json.dumps(machine))
    refused = shell("flows", "import", "order.json", "--format", "xstate", "--dry-run", code=1)
    assert refused.startswith("order.json: states.cart.type: a flow is at one step at a time")
    assert "use --format xstate" in shell("flows", "import", "order.json", "--dry-run", code=2)
    (shell.cwd / "order.json").write_text("{}")
    assert "order.json: (whole): " in shell("flows", "import", "order.json", "--dry-run", code=1)
