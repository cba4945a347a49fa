"""Diagrams over HTTP and on the command line."""

import base64
import hashlib
import json
import re
import uuid
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from app.contracts.flow import Flow
from app.diagrams.formats import diagram
from config.settings import SHIPPED_FLOWS
from tests.support.samples import flow_dict
from tests.support.serving import Serving
from tests.support.shell import Shell

SIGN_IN = "/api/flows/sign-in/diagram"
CONTENT_TYPES = {
    "mermaid": "text/plain; charset=utf-8",
    "dot": "text/vnd.graphviz; charset=utf-8",
    "svg": "image/svg+xml; charset=utf-8",
}


def shipped(slug: str) -> Flow:
    return msgspec.json.decode((SHIPPED_FLOWS / f"{slug}.json").read_bytes(), type=Flow)


def drawn(raw: dict[str, Any], form: Any, current: str | None = None) -> str:
    return diagram(msgspec.convert(raw, Flow), form, current)


async def published(serving: Serving, **changes: Any) -> dict[str, Any]:
    """A flow of one's own."""
    raw = flow_dict(f"drawn-{uuid.uuid4().hex[:8]}", **changes)
    async with serving.http("root", "flow:admin") as http:
        assert (await http.post("/api/flows", json=raw)).status_code == 201
    return raw


@pytest.mark.parametrize("form", CONTENT_TYPES)
async def test_each_format(serving: Serving, user: str, form: Any) -> None:
    async with serving.http(user) as http:
        answer = await http.get(SIGN_IN, params={"format": form})
    assert answer.status_code == 200
    assert answer.text == diagram(shipped("sign-in"), form)
    assert answer.headers["content-type"] == CONTENT_TYPES[form]
    policy = answer.headers["content-security-policy"]
    for style in re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert policy.endswith(f"; style-src 'sha256-{digest}'")
    assert "unsafe" not in policy
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers["flow-version"] == "1"


async def test_mermaid_unless_another_format_is_asked_for(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        assert (await http.get(SIGN_IN)).text.startswith("flowchart TD\n")


@pytest.mark.parametrize("form", CONTENT_TYPES)
async def test_head_answers_the_headers_of_get(serving: Serving, user: str, form: str) -> None:
    async with serving.http(user) as http:
        answer = await http.head(SIGN_IN, params={"format": form})
        assert (answer.status_code, answer.text) == (200, "")
        assert answer.headers["content-type"] == CONTENT_TYPES[form]
        assert (await http.head("/api/flows/nowhere/diagram")).status_code == 404


@pytest.mark.parametrize("form", CONTENT_TYPES)
async def test_where_a_state_is_on_the_version_that_it_runs_on(
    serving: Serving, user: str, form: Any
) -> None:
    first = await published(serving)
    slug = first["flow"]
    second = {**first, "title": "Changed"}
    async with serving.http(user) as http, serving.http("root", "flow:admin") as root:
        await http.post(f"/api/flow/{slug}/start")
        await http.post(f"/api/flow/{slug}/transition/go")
        assert (await root.patch(f"/api/flows/{slug}", json={"title": "Changed"})).status_code == 200
        target = f"/api/flows/{slug}/diagram"

        async def get(client: Any, **query: Any) -> tuple[str, str]:
            answer = await client.get(target, params={"format": form, **query})
            assert answer.status_code == 200, answer.text
            return answer.text, answer.headers["flow-version"]

        assert await get(http) == (drawn(second, form), "2")
        assert await get(http, version=1) == (drawn(first, form), "1")
        assert await get(http, userId=user) == (drawn(first, form, "b"), "1")
        assert await get(root, userId=user) == (drawn(first, form, "b"), "1")
        assert await get(root, userId=user, version=2) == (drawn(second, form, "b"), "2")
        assert await get(root, userId="nobody") == (drawn(second, form), "2")
    assert drawn(first, form) != drawn(first, form, "b")


async def test_a_retired_flow_is_drawn_for_the_states_that_run(serving: Serving, user: str) -> None:
    raw = await published(serving)
    target = f"/api/flows/{raw['flow']}/diagram"
    async with serving.http(user) as http, serving.http("root", "flow:admin") as root:
        await http.post(f"/api/flow/{raw['flow']}/start")
        assert (await root.delete(f"/api/flows/{raw['flow']}")).status_code == 204
        assert (await http.get(target)).json()["code"] == "FLOW_NOT_FOUND"
        assert (await http.get(target, params={"userId": user})).text == drawn(raw, "mermaid", "a")
        assert (await http.get(target, params={"version": 1})).text == drawn(raw, "mermaid")


async def test_another_users_place_needs_a_scope(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        answer = await http.get(SIGN_IN, params={"userId": "somebody"})
    assert (answer.status_code, answer.json()["code"]) == (403, "INSUFFICIENT_PERMISSIONS")


async def test_who_may_not_see_a_flow_gets_no_diagram(serving: Serving, user: str) -> None:
    raw = await published(serving, roles=["boss"])
    target = f"/api/flows/{raw['flow']}/diagram"
    async with serving.http(user) as http, serving.http(user, roles=["boss"]) as boss:
        for query in ({}, {"version": 1}, {"userId": user}):
            assert (await http.get(target, params=query)).json()["code"] == "INSUFFICIENT_PERMISSIONS"
            assert (await boss.get(target, params=query)).text == drawn(raw, "mermaid")


async def test_what_there_is_not(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        for target, query in (
            ("/api/flows/nowhere/diagram", {}),
            ("/api/flows/nowhere/diagram", {"userId": user}),
            (SIGN_IN, {"version": 99}),
        ):
            answer = await http.get(target, params=query)
            assert (answer.status_code, answer.json()["code"]) == (404, "FLOW_NOT_FOUND")


async def test_bad_parameters_are_all_named(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        answer = await http.get(SIGN_IN, params={"format": "png", "version": "0", "size": "big"})
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_REQUEST")
        faults = {fault["pointer"]: fault["message"] for fault in answer.json()["details"]["errors"]}
        assert set(faults) == {"/format", "/version", "/size"}
        assert faults["/format"] == "must be one of dot, mermaid, svg"
        for version in ("x", "-1", "1.5", "9" * 30):
            answer = await http.get(SIGN_IN, params={"version": version})
            assert answer.json()["details"]["errors"][0]["pointer"] == "/version"


async def test_openapi_names_the_formats(serving: Serving, user: str) -> None:
    async with serving.http(user) as http:
        operation = (await http.get("/openapi.json")).json()["paths"]["/api/flows/{flowId}/diagram"]["get"]
    content = operation["responses"]["200"]["content"]
    assert {f"{media}; charset=utf-8" for media in content} == set(CONTENT_TYPES.values())
    assert all(media["schema"] == {"type": "string"} for media in content.values())
    queries = {one["name"]: one["schema"] for one in operation["parameters"] if one["in"] == "query"}
    assert set(queries) == {"userId", "entityId", "format", "version"}
    assert set(queries["format"]["enum"]) == set(CONTENT_TYPES)


def test_on_the_command_line(shell: Shell) -> None:
    raw = json.loads((SHIPPED_FLOWS / "sign-in.json").read_text())
    assert shell("flows", "diagram", "sign-in") == drawn(raw, "mermaid")
    assert shell("flows", "diagram", "sign-in", "--format", "dot") == drawn(raw, "dot")
    shell("state", "set", "--user", "ada", "--flow", "sign-in", '{"step": "recovery"}')
    (shell.cwd / "next.json").write_text(json.dumps({**raw, "title": "Next"}))
    shell("flows", "import", "next.json")
    asked = ("flows", "diagram", "sign-in", "--format", "svg")
    assert shell(*asked, "--user", "ada") == drawn(raw, "svg", "recovery")
    assert shell(*asked, "--version", "1") == drawn(raw, "svg")
    printed = shell(*asked, "--user", "bob")
    assert (
        printed
        == drawn({**raw, "title": "Next"}, "svg") + "bob has no state in sign-in: no step is highlighted\n"
    )
    assert shell("flows", "diagram", "nowhere", code=1) == "server-flow: Flow nowhere not found\n"
    assert "no version 9" in shell("flows", "diagram", "sign-in", "--version", "9", code=1)


def test_of_a_file_without_a_server(shell: Shell) -> None:
    shell.env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    raw = flow_dict(title="Größe → ✓")
    (shell.cwd / "a flow.json").write_text(json.dumps(raw))
    (shell.cwd / "broken.json").write_text(json.dumps({**raw, "initialStep": "x"}))
    (shell.cwd / "not.json").write_text("{")
    printed = shell("flows", "diagram", "--file", "a flow.json", "--format", "dot")
    assert re.match(r"digraph .*\{\n", printed)
    assert printed.endswith("}\n")
    assert "/initialStep" in shell("flows", "diagram", "--file", "broken.json", code=1)
    assert "not.json" in shell("flows", "diagram", "--file", "not.json", code=1)
    assert "does not exist" in shell("flows", "diagram", "--file", "none.json", code=2)
    for wrong in ((), ("sign-in", "--file", "a flow.json"), ("--file", "a flow.json", "--user", "ada")):
        assert "--file" in shell("flows", "diagram", *wrong, code=2)


def test_a_file_is_drawn_in_utf_8(shell: Shell) -> None:
    shell.env = {}
    (shell.cwd / "flow.json").write_text(json.dumps(flow_dict(title="Größe → ✓")))
    root = ElementTree.fromstring(shell("flows", "diagram", "--file", "flow.json", "--format", "svg"))
    assert root.findtext("{http://www.w3.org/2000/svg}title") == "Größe → ✓"
