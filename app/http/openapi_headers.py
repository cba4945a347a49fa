"""Headers of requests and of answers in the OpenAPI document."""

from collections.abc import Iterable
from typing import Any

_STATE_TAG = '`"<epoch>.<revision>"`'
REQUEST_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "Names the request in the log and in its answer; 1 to 128 of `A-Z a-z 0-9 . _ -`. "
        "In place of any other, and without one, the service makes one.",
        "schema": {"type": "string"},
    },
    "If-Match": {
        "description": "Change only what has this `ETag`, or one of a list; `*`: only what exists "
        f"(RFC 9110). The tags of states are {_STATE_TAG}. A weak tag never matches.",
        "schema": {"type": "string"},
        "example": '"0198c0de-0000-7000-8000-000000000000.3"',
    },
    "If-None-Match": {
        "description": "Answer 304 without a body when the `ETag` is still this one, or one of a list.",
        "schema": {"type": "string"},
    },
    "Idempotency-Key": {
        "description": "1 to 128 visible ASCII characters. For 24 hours the same key on the same state "
        "gives the first answer again and changes nothing; with another request it is refused (422).",
        "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,128}$"},
    },
    "Last-Event-ID": {
        "description": "The id of the last event that was received, `<epoch>.<revision>`: the stream "
        "continues after it.",
        "schema": {"type": "string"},
    },
}
ANSWER_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "Names the request in the log of the service.",
        "required": True,
        "schema": {"type": "string"},
    },
    "ETag": {
        "description": f"For `If-Match` and `If-None-Match`. Of a state: {_STATE_TAG}; absent without one.",
        "schema": {"type": "string"},
    },
    "Flow-Version": {
        "description": "The version of the definition.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "Location": {
        "description": "The address of the created resource, without scheme and host.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Retry-After": {
        "description": "The number of seconds after which the same request may succeed.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "RateLimit-Policy": {
        "description": "The limit that was exceeded, if it is one of requests: its name, its requests (`q`) "
        "in so many seconds (`w`).",
        "schema": {"type": "string"},
    },
    "RateLimit": {
        "description": "The limit that was exceeded, the requests that are left of it (`r`), and the number "
        "of seconds until there is one (`t`).",
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {
        "description": "`Bearer`: a token is required.",
        "required": True,
        "schema": {"type": "string"},
    },
}


def answer_header_components() -> dict[str, Any]:
    """Return the headers of the components."""
    return {_component(name): header for name, header in ANSWER_HEADERS.items()}


def request_headers(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return headers as parameters of an operation; every request may have ``X-Request-Id``."""
    return [
        {"name": name, "in": "header", "required": False, **REQUEST_HEADERS[name]}
        for name in (*names, "X-Request-Id")
    ]


def answer_headers(names: Iterable[str]) -> dict[str, Any]:
    """Refer to the headers of an answer; every one has ``X-Request-Id``."""
    return {name: {"$ref": f"#/components/headers/{_component(name)}"} for name in (*names, "X-Request-Id")}


def _component(header: str) -> str:
    return header.replace("-", "")
