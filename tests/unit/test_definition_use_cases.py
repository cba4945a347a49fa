"""Tokens, diagrams, export, import and lists of flows, as Python programs use them."""

import asyncio
import threading
from typing import Any

import pytest

from app.contracts.callers import Caller, trusted_caller
from app.contracts.errors import (
    FlowNotFoundError,
    FlowNotStartedError,
    InsufficientPermissionsError,
    InvalidDefinitionError,
    InvalidRequestError,
)
from app.diagrams import formats
from app.exchange.xstate_import import from_xstate
from app.sources.yaml_format import read_yaml
from tests.support.rig import Rig, rig
from tests.support.samples import flow_dict

ADA = trusted_caller("ada")
STRANGER = Caller("eve")
STAFF = Caller("tim", frozenset({"staff"}))


async def with_hidden_flows() -> Rig:
    """Build a rig with the flows a to e, of which only a and d are for everybody."""
    made = Rig()
    for slug in "abcde":
        await made.service.create_flow(flow_dict(slug, **({} if slug in "ad" else {"roles": ["staff"]})))
    return made


async def test_a_token_of_a_state_and_its_comparison() -> None:
    r = await rig()
    with pytest.raises(FlowNotStartedError):
        await r.service.tokens.encode("ada", "loop", caller=ADA)
    await r.flows.start_flow("ada", "loop")
    made = await r.service.tokens.encode("ada", "loop", caller=ADA)
    assert made.state.step == "a"
    found = await r.service.tokens.compare("ada", made.token, caller=ADA)
    assert (found.hint.step, found.version, found.matches, found.differences) == ("a", 1, True, [])
    await r.flows.execute_transition("ada", "loop", "go")
    moved = await r.service.tokens.compare("ada", made.token, caller=ADA)
    assert moved.state is not None
    assert (moved.state.step, moved.matches) == ("b", False)
    assert "step" in moved.differences
    without = await r.service.tokens.compare("bob", made.token, caller=trusted_caller("bob"))
    assert (without.state, without.matches, without.differences) == (None, False, [])
    with pytest.raises(InvalidRequestError):
        await r.service.tokens.compare("ada", "no token", caller=ADA)


async def test_a_diagram_highlights_the_step_of_a_state() -> None:
    r = await rig()
    await r.flows.start_flow("ada", "loop", None)
    await r.flows.execute_transition("ada", "loop", "go")
    await r.service.update_flow("loop", {"title": "Second"})
    flow = (await r.service.definitions.version("loop", 1, ADA)).flow
    drawn = await r.service.diagrams.draw("loop", "mermaid", caller=ADA, user_id="ada")
    assert (drawn.version, drawn.step) == (1, "b")
    assert drawn.text == formats.diagram(flow, "mermaid", "b")
    newest = await r.service.diagrams.draw("loop", "dot", caller=ADA)
    assert (newest.version, newest.step) == (2, None)
    other = await r.service.diagrams.draw("loop", "dot", caller=ADA, user_id="ada", version=2)
    assert (other.version, other.step) == (2, "b")


async def test_svg_is_drawn_in_a_thread_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    r = await rig()
    threads: list[threading.Thread] = []
    drawing = threading.Lock()

    def draw(*_: Any) -> str:
        assert drawing.acquire(blocking=False), "two at a time"
        threads.append(threading.current_thread())
        drawing.release()
        return "<svg/>"

    monkeypatch.setattr(formats, "diagram", draw)
    drawn = await asyncio.gather(*(r.service.diagrams.draw("loop", "svg", caller=ADA) for _ in range(5)))
    assert [each.text for each in drawn] == ["<svg/>"] * 5
    assert len(threads) == 5
    assert threading.main_thread() not in threads


async def test_export_in_each_format() -> None:
    r = await rig()
    flow = (await r.service.definitions.current("loop", ADA)).flow
    plain = await r.service.exchange.export("loop", "json", caller=ADA)
    assert plain.content == flow
    assert (plain.definition.version, plain.unconverted) == (1, [])
    written = await r.service.exchange.export("loop", "yaml", caller=ADA)
    assert isinstance(written.content, str)
    assert read_yaml(written.content)["initialStep"] == "a"
    machine = await r.service.exchange.export("loop", "xstate", caller=ADA, version=1)
    assert isinstance(machine.content, dict)
    assert list(from_xstate(machine.content).flow["steps"]) == ["a", "b", "c"]
    with pytest.raises(FlowNotFoundError):
        await r.service.exchange.export("loop", "json", caller=ADA, version=2)


async def test_an_import_publishes_what_differs() -> None:
    r = await rig()
    machine = (await r.service.exchange.export("loop", "xstate", caller=ADA)).content
    same = await r.service.exchange.import_flow(machine, "xstate", caller=ADA)
    assert (same.definition.version, same.published) == (1, False)
    checked = await r.service.exchange.check(flow_dict(title="New"), "json")
    assert checked.flow.title == "New"
    assert (await r.service.definitions.current("loop", ADA)).version == 1, "a check publishes nothing"
    done = await r.service.exchange.import_flow(flow_dict(title="New"), "json", caller=trusted_caller("ops"))
    assert (done.definition.version, done.published) == (2, True)
    assert (done.definition.published_by, done.definition.source) == ("ops", "import")
    with pytest.raises(InvalidDefinitionError):
        await r.service.exchange.import_flow({"id": "x"}, "json", caller=ADA)


async def test_a_list_has_the_flows_that_the_caller_may_see() -> None:
    r = await with_hidden_flows()

    async def slugs(caller: Caller) -> list[str]:
        return [found.flow.flow async for found in r.service.definitions.all(caller=caller)]

    assert await slugs(STRANGER) == ["a", "d"]
    assert await slugs(STAFF) == await slugs(ADA) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
async def test_a_page_names_no_flow_that_the_caller_must_not_see(limit: int) -> None:
    r = await with_hidden_flows()
    found: list[str] = []
    after = None
    while True:
        page = await r.service.definitions.page(after, limit, caller=STRANGER)
        found += [each.flow.flow for each in page.items]
        if page.next is None:
            break
        assert page.next == page.items[-1].flow.flow, "never an empty page before the last"
        after = page.next
    assert found == ["a", "d"]


async def test_hidden_flows_are_neither_drawn_nor_exported() -> None:
    r = await with_hidden_flows()
    with pytest.raises(InsufficientPermissionsError):
        await r.service.diagrams.draw("b", "svg", caller=STRANGER)
    with pytest.raises(InsufficientPermissionsError):
        await r.service.exchange.export("b", "yaml", caller=STRANGER)
    with pytest.raises(InsufficientPermissionsError):
        await r.service.tokens.encode("eve", "b", caller=STRANGER)
