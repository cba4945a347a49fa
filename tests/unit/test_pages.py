"""Pages end at a number of bytes too, and what they left out comes with the next one."""

import pytest
from msgspec import json

from app.contracts.pages import MAX_PAGE_BYTES, take_page
from app.contracts.state import StateId
from app.http.paging import page_answer
from tests.support.rig import rig


@pytest.mark.parametrize(
    ("sizes", "limit", "taken", "full"),
    [
        ([], 5, 0, False),
        ([1, 1], 5, 2, False),
        ([1, 1], 2, 2, True),
        ([MAX_PAGE_BYTES, 1], 5, 1, True),
        ([MAX_PAGE_BYTES - 1, 1], 5, 2, False),
        ([MAX_PAGE_BYTES + 1], 5, 1, False),
        ([MAX_PAGE_BYTES + 1, 1], 5, 1, True),
        ([1, MAX_PAGE_BYTES, 1], 5, 1, True),
    ],
)
def test_a_page_ends_at_a_count_and_at_bytes(sizes: list[int], limit: int, taken: int, full: bool) -> None:
    assert take_page(sizes, limit, lambda size: size) == (sizes[:taken], full)


@pytest.mark.parametrize("after_all", [None, "9"])
def test_what_an_answer_leaves_out_comes_with_the_next(after_all: str | None) -> None:
    """Views may be larger than what was read: a state with its transitions, a flow with its prefabs."""
    found, shown, rounds = list(range(10)), list[int](), 0
    while found:
        answer = json.encode(page_answer(found, lambda n: [n, "x" * 300_000], str, after_all).value)
        assert len(answer) < 1.1 * MAX_PAGE_BYTES
        page = json.decode(answer)
        shown += [n for n, _ in page["items"]]
        if page.get("next") == after_all:
            break
        found = [n for n in found if n > int(page["next"])]
        rounds += 1
    assert (shown, rounds) == (list(range(10)), 3)


async def test_history_in_the_outbox_and_in_the_store_is_paged_by_bytes() -> None:
    r = await rig(max_payload_bytes=400_000)
    await r.flows.start_flow("ada", "loop")
    for n in range(8):
        await r.flows.execute_transition("ada", "loop", "again", {"text": "x" * 300_000, "n": n})
    stored = await r.states.load(StateId("loop", "ada"))
    assert stored is not None
    records = [record.id for record in await r.flows.get_flow_history("ada", "loop")]
    assert len(records) == 9, "the list of a Python program is whole"
    for delivered in (0, 3, 9):
        await r.history.append(stored.pending[:delivered])
        found, after = [], None
        while True:
            page = await r.flows.page_flow_history("ada", "loop", after=after)
            assert sum(len(json.encode(record)) for record in page.items) < MAX_PAGE_BYTES + 700_000
            found += [record.id for record in page.items]
            if page.next is None:
                break
            after = page.next
        assert found == records, delivered
        assert len(found) > len(page.items)
    assert (await r.flows.verify_flow_history("ada", "loop")).records == 9
