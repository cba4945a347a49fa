"""Projections of payloads."""

from typing import Any

import pytest

from app.flow.values.projection import project

PAYLOAD = {"a": {"b": 1, "c": [10, {"d": None, "e": 2}, 30]}, "x/y": 1, "m~n": 2, "": 3, "empty": {}}


@pytest.mark.parametrize(
    ("pointers", "expected"),
    [
        ([], {}),
        ([""], PAYLOAD),
        (["/a/b"], {"a": {"b": 1}}),
        (["/a/b", "/a"], {"a": PAYLOAD["a"]}),
        (["/a", "/a/b"], {"a": PAYLOAD["a"]}),
        (["/a/c/1/e"], {"a": {"c": [None, {"e": 2}]}}),
        (["/a/c/1/d"], {"a": {"c": [None, {"d": None}]}}),
        (["/a/c/2", "/a/c/0"], {"a": {"c": [10, None, 30]}}),
        (["/a/c/3"], {}),
        (["/a/c/-"], {}),
        (["/a/c/01"], {}),
        (["/a/c/-1"], {}),
        (["/a/c/99999999999999999999999"], {}),
        (["/a/b/c"], {}),
        (["/gone", "/a/gone", "/a/b"], {"a": {"b": 1}}),
        (["/x~1y"], {"x/y": 1}),
        (["/m~0n"], {"m~n": 2}),
        (["/"], {"": 3}),
        (["/empty"], {"empty": {}}),
        (["/empty/a"], {}),
        (["a"], {}),
    ],
)
def test_projection(pointers: list[str], expected: dict[str, Any]) -> None:
    assert project(PAYLOAD, pointers) == expected


def test_the_payload_is_not_changed() -> None:
    payload = {"list": [{"a": 1, "b": 2}]}
    shown = project(payload, ["/list/0/a"])
    assert shown == {"list": [{"a": 1}]}
    assert payload == {"list": [{"a": 1, "b": 2}]}
