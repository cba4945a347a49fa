"""Conditional headers as RFC 9110 says."""

import pytest

from app.contracts.errors import InvalidRequestError
from app.http.entity_tags import EntityTags, entity_tags


@pytest.mark.parametrize(
    ("lines", "tags"),
    [
        ([], None),
        (["*"], EntityTags(any=True)),
        ([" * "], EntityTags(any=True)),
        (['"e.1"'], EntityTags(strong=("e.1",))),
        (['W/"e.1"'], EntityTags(weak=("e.1",))),
        (['"e.1", "e.2"'], EntityTags(strong=("e.1", "e.2"))),
        (['"e.1",W/"e.2" ,\t"e.3"'], EntityTags(strong=("e.1", "e.3"), weak=("e.2",))),
        (['"e.1"', '"e.2"'], EntityTags(strong=("e.1", "e.2"))),
        ([', ,"e.1",,'], EntityTags(strong=("e.1",))),
        (['"a,b", "c"'], EntityTags(strong=("a,b", "c"))),
        (['""'], EntityTags(strong=("",))),
    ],
)
def test_lists_of_tags(lines: list[str], tags: EntityTags | None) -> None:
    assert entity_tags("If-Match", lines) == tags


@pytest.mark.parametrize(
    "line",
    ["", " ", ",", "0", "e.1", '"e.1', 'e.1"', '"e.1" "e.2"', 'w/"e.1"', 'W / "e.1"', '*, "e.1"', '"a b"'],
)
def test_what_is_no_list_is_refused(line: str) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        entity_tags("If-Match", [line])
    assert refusal.value.details["errors"][0]["pointer"] == "/If-Match"
