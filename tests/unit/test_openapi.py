"""The OpenAPI document says what generators of typed clients must know."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from msgspec import UNSET, Struct, UnsetType

from app.contracts import errors
from app.contracts.errors import FlowError
from app.http.application import all_endpoints
from app.http.endpoint import Endpoint
from app.http.openapi import openapi
from app.http.openapi_schemas import Schemas
from tests.support.declared import Declarations

Json = dict[str, Any]

ENDPOINTS = all_endpoints({})
DOCUMENT = openapi(ENDPOINTS, "1.2.3")
COMPONENTS: Json = DOCUMENT["components"]["schemas"]
OPERATIONS: dict[str, Json] = {
    operation["operationId"]: operation for path in DOCUMENT["paths"].values() for operation in path.values()
}


def nodes(node: Any, place: str = "") -> Iterator[tuple[str, Json]]:
    """List all objects of a document, by their places."""
    if isinstance(node, dict):
        yield place, node
        for name, part in node.items():
            yield from nodes(part, f"{place}/{name}")
    elif isinstance(node, list):
        for number, part in enumerate(node):
            yield from nodes(part, f"{place}/{number}")


def resolve(node: Json) -> Json:
    """Follow a reference."""
    found: Json = DOCUMENT
    for name in node["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def by_name(endpoint: Endpoint) -> str:
    return endpoint.name


def header_parameters(name: str) -> set[str]:
    return {one["name"] for one in OPERATIONS[name]["parameters"] if one["in"] == "header"}


def test_it_has_the_address_and_the_licence() -> None:
    assert DOCUMENT["info"]["version"] == "1.2.3"
    assert DOCUMENT["info"]["license"] == {"name": "MIT", "identifier": "MIT"}
    assert [server["url"] for server in DOCUMENT["servers"]] == ["/"]
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    assert {tag for operation in OPERATIONS.values() for tag in operation["tags"]} == tags


def test_what_a_service_uses_is_listed_together() -> None:
    of_services = {
        path: operation["tags"]
        for path, operations in DOCUMENT["paths"].items()
        for operation in operations.values()
        if "/services" in path or "/dead-letters" in path
    }
    assert len(of_services) > 10
    assert {path for path, tags in of_services.items() if tags != ["Services"]} == set()


def test_operations_have_names_that_methods_can_have() -> None:
    assert len(OPERATIONS) == len(ENDPOINTS)
    assert [name for name in OPERATIONS if not re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", name)] == []


def test_every_reference_leads_somewhere() -> None:
    for place, node in nodes(DOCUMENT):
        if isinstance(node.get("$ref"), str):
            assert resolve(node), place
    used = {node["$ref"] for _, node in nodes(DOCUMENT) if isinstance(node.get("$ref"), str)}
    for kind in ("schemas", "headers"):
        unused = [name for name in DOCUMENT["components"][kind] if f"#/components/{kind}/{name}" not in used]
        assert unused == []


def test_objects_with_any_members_allow_additional_ones() -> None:
    found = [
        place
        for place, node in nodes(DOCUMENT)
        if node.get("type") == "object"
        and not node.get("properties")
        and not node.get("additionalProperties")
    ]
    assert found == []
    payload = COMPONENTS["TransitionCommand"]["properties"]["payload"]
    assert payload == {"type": "object", "additionalProperties": True}


def test_no_schema_has_a_default_which_would_make_a_member_required() -> None:
    assert [place for place, node in nodes(COMPONENTS) if "default" in node and "type" in node] == []
    command = COMPONENTS["TransitionCommand"]
    assert "required" not in command or "ok" not in command["required"]
    assert command["properties"]["ok"] == {"type": "boolean", "description": "Default: `true`."}


def test_what_an_answer_always_has_is_required() -> None:
    assert COMPONENTS["Retired"]["required"] == ["ended", "failed", "more"]
    assert COMPONENTS["Health"]["required"] == ["status", "checks"]
    assert COMPONENTS["Sample"]["required"] == ["count", "userIds"]
    assert {"ok", "transitions"} <= set(COMPONENTS["StateView"]["required"])
    page = COMPONENTS["StatesPage"]
    assert page["required"] == ["items"]
    assert page["properties"]["next"] == {"type": "string"}, "absent on the last page, and never null"
    assert COMPONENTS["RecoveryView"]["required"] == ["action", "state"], "null without a state, never absent"


class Both(Struct):
    """Sent and answered."""

    required: int
    number: int = 1
    nothing: int | None = None
    absent: int | UnsetType = UNSET


class Answered(Struct, omit_defaults=True):
    """Answered alone."""

    both: Both
    number: int = 1
    nothing: int | None = None
    absent: int | UnsetType = UNSET


class AnsweredWhole(Struct):
    """Answered alone, with its defaults."""

    number: int = 1
    nothing: int | None = None
    absent: int | UnsetType = UNSET
    some: dict[str, Any] = {}


def test_schemas_by_direction() -> None:
    schemas = Schemas(requested=[Both], answered=[Answered, (AnsweredWhole, int | None)])
    found = schemas.components
    assert found["Both"]["required"] == ["required"]
    assert found["Both"]["properties"]["number"] == {"type": "integer", "description": "Default: `1`."}
    assert found["Both"]["properties"]["nothing"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert found["Answered"]["required"] == ["both"]
    assert found["Answered"]["properties"]["nothing"] == {"type": "integer"}
    assert found["AnsweredWhole"]["required"] == ["number", "nothing", "some"]
    assert found["AnsweredWhole"]["properties"]["some"]["additionalProperties"] is True
    assert schemas.of((AnsweredWhole, int | None)) == {
        "anyOf": [schemas.of(AnsweredWhole), {"anyOf": [{"type": "integer"}, {"type": "null"}]}]
    }


def test_codes_are_enumerated() -> None:
    known = {
        error.code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, FlowError) and error is not FlowError
    }
    assert set(COMPONENTS["ErrorCode"]["enum"]) == known - {errors.FaultyInputError.code} | {"INTERNAL_ERROR"}
    assert COMPONENTS["ErrorView"]["properties"]["code"] == {"$ref": "#/components/schemas/ErrorCode"}


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=by_name)
def test_refusals_are_reported_apart_by_their_code(endpoint: Endpoint) -> None:
    refusals = {
        status: answer["content"]["application/problem+json"]["schema"]
        for status, answer in OPERATIONS[endpoint.name]["responses"].items()
        if "application/problem+json" in answer.get("content", {})
    }
    assert {"413", "422", "500"} <= refusals.keys()
    assert endpoint.access.is_public or {"401", "503"} <= refusals.keys()
    assert endpoint.access.is_public or "403" in refusals
    declared = set()
    for status, schema in refusals.items():
        problems = [resolve(one) for one in schema.get("oneOf", [schema])]
        codes = [problem["properties"]["code"]["enum"] for problem in problems]
        assert {problem["properties"]["status"]["const"] for problem in problems} == {int(status)}
        declared |= {code for (code,) in codes}
        if "oneOf" in schema:
            assert schema["discriminator"]["propertyName"] == "code"
            mapping = schema["discriminator"]["mapping"]
            assert mapping == {code: one["$ref"] for (code,), one in zip(codes, schema["oneOf"], strict=True)}
    assert {error.code for error in endpoint.errors} <= declared


def test_headers_of_requests_are_declared() -> None:
    changes = {"startFlow", "executeTransition", "resetFlow", "undoTransition", "setFlowState"}
    for name in (*changes, "clearFlowState", "pauseFlow", "resumeFlow"):
        assert header_parameters(name) == {"If-Match", "Idempotency-Key", "X-Request-Id"}
    for name in ("createFlow", "updateFlow", "deleteFlow"):
        assert header_parameters(name) == {"If-Match", "X-Request-Id"}
    for name in ("listFlows", "getFlow", "getFlowVersion"):
        assert header_parameters(name) == {"If-None-Match", "X-Request-Id"}
        assert "ETag" in OPERATIONS[name]["responses"]["304"]["headers"]
    assert header_parameters("streamFlowState") == {"Last-Event-ID", "X-Request-Id"}
    assert all("X-Request-Id" in header_parameters(name) for name in OPERATIONS)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=by_name)
def test_headers_of_answers_are_declared(endpoint: Endpoint) -> None:
    for status, answer in OPERATIONS[endpoint.name]["responses"].items():
        assert resolve(answer["headers"]["X-Request-Id"])["required"] is True
        assert ("WWW-Authenticate" in answer["headers"]) == (status == "401")
        if status in ("429", "503") and "application/problem+json" in answer["content"]:
            assert "Retry-After" in answer["headers"]
    if "If-Match" in endpoint.request_headers and endpoint.answers.get(200) is not None:
        assert (
            "ETag" in OPERATIONS[endpoint.name]["responses"]["200"]["headers"]
            or endpoint.name == "deleteFlow"
        )


def test_created_resources_have_a_location() -> None:
    for name in ("createFlow", "importFlow"):
        answers = OPERATIONS[name]["responses"]
        assert ["Location" in answers[status]["headers"] for status in ("200", "201")] == [False, True]


def test_operations_describe_the_token_that_they_need() -> None:
    assert OPERATIONS["livez"]["security"] == []
    for name, scope in (
        ("getFlowState", "`flow:service`"),
        ("pauseFlow", "`flow:admin`"),
        ("listFlows", "`flow:use`"),
    ):
        assert {"bearer": [scope.strip("`")]} in OPERATIONS[name]["security"]
        assert scope in OPERATIONS[name]["description"]


def test_parameters_of_a_query_are_never_null() -> None:
    for operation in OPERATIONS.values():
        for parameter in operation["parameters"]:
            assert None not in parameter["schema"].get("enum", [])
            kinds = [option.get("type") for option in parameter["schema"].get("anyOf", [parameter["schema"]])]
            assert "null" not in kinds, parameter


def test_definitions_have_their_type_in_requests() -> None:
    def body(name: str) -> Json:
        content: Json = OPERATIONS[name]["requestBody"]["content"]["application/json"]["schema"]
        return content

    assert body("createFlow") == {"$ref": "#/components/schemas/Flow"}
    assert body("updateFlow") == {"$ref": "#/components/schemas/FlowPatch"}
    assert body("importFlow")["anyOf"][0] == {"$ref": "#/components/schemas/Flow"}
    exported = OPERATIONS["exportFlow"]["responses"]["200"]["content"]
    assert exported["application/json"]["schema"]["anyOf"][0] == {"$ref": "#/components/schemas/Flow"}
    assert exported["application/yaml"]["schema"] == {"type": "string"}
    assert "requestBody" not in OPERATIONS["undoTransition"], "it takes nothing"
    assert [OPERATIONS[name]["requestBody"]["required"] for name in ("startFlow", "pauseFlow")] == [
        False,
        True,
    ]


SOUND: Json = {"status": "ok", "checks": {}}
PROBLEM: Json = {
    "type": "urn:server-flow:error:INVALID_REQUEST",
    "title": "Invalid request",
    "status": 422,
    "detail": "d",
    "instance": "/livez",
    "code": "INVALID_REQUEST",
    "retryable": False,
    "details": {"errors": [{"pointer": "/a", "message": "m"}]},
}


def problems(
    status: int,
    body: Any,
    media: str = "application/json",
    method: str = "GET",
    path: str = "/livez",
    **more: Any,
) -> list[str]:
    """Return the findings of the comparison of an answer with the document."""
    sent = more.pop("sent", None)
    headers = {"X-Request-Id": "1", "Content-Type": f"{media}; charset=utf-8", **more}
    request = httpx.Request(method, f"http://here{path}", json=sent)
    raw = msgspec.json.encode(body)
    response = httpx.Response(status, headers=headers, content=raw, request=request)
    return Declarations(DOCUMENT).problems(response, raw)


def test_what_is_not_declared_is_found() -> None:
    problem = "application/problem+json"
    assert problems(200, SOUND) == []
    assert problems(418, SOUND) == ["status 418 is not declared"]
    assert "is not declared" in problems(200, SOUND, "text/plain")[0]
    assert problems(200, SOUND, Surprise="1") == ["header surprise is not declared"]
    assert '"checks" is a required property' in problems(200, {"status": "ok"})[0]
    assert problems(422, PROBLEM, problem) == []
    assert "INVALID_PAYLOAD" in problems(422, {**PROBLEM, "code": "INVALID_PAYLOAD"}, problem)[0]
    assert problems(422, {**PROBLEM, "details": {}}, problem) != []
    unauthorised = {**PROBLEM, "status": 401, "code": "AUTHENTICATION_REQUIRED", "details": {}}
    found = problems(401, unauthorised, problem, path="/api/states")
    assert found == ["header www-authenticate is missing"]
    accepted = problems(200, {"purged": 1}, method="PUT", path="/api/flow/a/state", sent={"stop": 1})
    assert any(one.startswith("accepted body") for one in accepted)
    assert problems(200, "anything", path="/nowhere") == []
