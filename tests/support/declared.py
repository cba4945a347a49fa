"""Compares what the service accepts and answers with what its OpenAPI document declares."""

import json
import re
from functools import cache
from typing import Any

import httpx
import jsonschema_rs

from app.http.application import all_endpoints
from app.http.openapi import openapi

Json = dict[str, Any]

UNDECLARED_HEADERS = {
    "allow",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-security-policy",
    "content-type",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "date",
    "permissions-policy",
    "referrer-policy",
    "strict-transport-security",
    "transfer-encoding",
    "vary",
    "x-accel-buffering",
    "x-content-type-options",
    "x-frame-options",
}
"""Of HTTP and of browsers: they are not part of the interface. Those of CORS neither."""


class Declarations:
    """An OpenAPI document, asked about exchanges."""

    def __init__(self, document: Json) -> None:
        self._document = document
        self._paths = [
            (re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)) + r"\Z"), operations)
            for path, operations in document["paths"].items()
        ]
        self._validator = cache(self._compile)

    def problems(self, response: httpx.Response, body: bytes | None) -> list[str]:
        """List what of an exchange is not declared; of paths that are not in the document nothing has to be.

        Args:
            response: What was answered, with its request.
            body: The body of the answer; None: it is not looked at.
        """
        request = response.request
        method = "get" if request.method == "HEAD" else request.method.lower()
        operation = self._operation(method, request.url.path)
        if operation is None:
            return []
        answer = operation["responses"].get(str(response.status_code))
        if answer is None:
            return [f"status {response.status_code} is not declared"]
        found = self._problems_of_headers(response, answer)
        media = response.headers.get("content-type", "").partition(";")[0]
        content = answer.get("content", {})
        if request.method == "HEAD" or body is None:
            return found
        if media not in content and (body or content):
            found.append(f"media type {media!r} is not declared, but {list(content)}")
        elif media.endswith("json"):
            found += self._faults(json.dumps(content[media]["schema"]), json.loads(body), "answer")
        if response.is_success and "requestBody" in operation:
            found += self._problems_of_request(request, operation["requestBody"])
        return found

    def _operation(self, method: str, path: str) -> Json | None:
        for pattern, operations in self._paths:
            if method in operations and pattern.match(path):
                operation: Json = operations[method]
                return operation
        return None

    def _problems_of_headers(self, response: httpx.Response, answer: Json) -> list[str]:
        declared = {name.lower(): self._resolve(header) for name, header in answer.get("headers", {}).items()}
        known = UNDECLARED_HEADERS | declared.keys()
        sent = [name for name in response.headers if not name.startswith("access-control-")]
        return [f"header {name} is not declared" for name in sent if name not in known] + [
            f"header {name} is missing"
            for name, header in declared.items()
            if header.get("required") and name not in response.headers
        ]

    def _problems_of_request(self, request: httpx.Request, declared: Json) -> list[str]:
        try:
            sent = request.content
        except httpx.RequestNotRead:
            return []
        if not sent.strip():
            return []  # a service may take nothing for an empty object, also where the document wants one
        schema = declared["content"]["application/json"]["schema"]
        return self._faults(json.dumps(schema), json.loads(sent), "accepted body")

    def _faults(self, schema: str, value: Any, what: str) -> list[str]:
        errors = self._validator(schema).iter_errors(value)
        return [f"{what} at /{'/'.join(map(str, one.instance_path))}: {one.message}" for one in errors]

    def _compile(self, schema: str) -> jsonschema_rs.Draft202012Validator:
        return jsonschema_rs.Draft202012Validator(
            {**json.loads(schema), "components": self._document["components"]}, validate_formats=True
        )

    def _resolve(self, node: Json) -> Json:
        found = self._document
        for name in node.get("$ref", "").removeprefix("#/").split("/"):
            found = found[name] if name else node
        return found


@cache
def _declarations() -> Declarations:
    return Declarations(openapi(all_endpoints({}), "of the tests"))


def require_declared(response: httpx.Response) -> None:
    """Fail unless an exchange is declared. A hook of clients."""
    body = None if _is_stream(response) else response.read()
    _require(response, body)


async def require_declared_async(response: httpx.Response) -> None:
    """Fail unless an exchange is declared. A hook of clients."""
    body = None if _is_stream(response) else await response.aread()
    _require(response, body)


def _is_stream(response: httpx.Response) -> bool:
    return str(response.headers.get("content-type", "")).startswith("text/event-stream")


def _require(response: httpx.Response, body: bytes | None) -> None:
    found = _declarations().problems(response, body)
    exchange = f"{response.request.method} {response.request.url.path} {response.status_code}"
    assert not found, f"not as the OpenAPI document declares it: {exchange}: {'; '.join(found)[:2000]}"
