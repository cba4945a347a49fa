"""The flows that ship: `serve` publishes them, commands add them to no database that lacks them."""

from pathlib import Path

import pytest

from app.main import definition_sources
from app.services import FlowService
from config.settings import SHIPPED_FLOWS, load_settings
from tests.support.rig import Rig, rig
from tests.support.samples import PROGRAM, flow_dict

EXAMPLES = sorted(path.stem for path in SHIPPED_FLOWS.glob("*.json"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def published(made: Rig, *, examples: bool, service: FlowService | None = None) -> list[str]:
    return await definition_sources(service or made.service, load_settings(), examples=examples).publish_all()


async def test_a_command_does_not_publish_examples_that_the_database_lacks() -> None:
    made = await rig()
    assert await published(made, examples=False) == []
    assert [found.flow.flow async for found in made.service.definitions.all(caller=PROGRAM)] == ["loop"]
    assert sorted(await published(made, examples=True, service=made.make())) == EXAMPLES
    assert len(EXAMPLES) == 3


async def test_a_command_publishes_examples_that_the_settings_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_DEFINITIONS", "database,file:config/flows")
    assert sorted(await published(await rig(), examples=False)) == EXAMPLES


async def test_a_command_shows_and_hands_back_an_example_that_a_caller_replaced() -> None:
    made = await rig()
    await made.service.create_flow(flow_dict(flow="sign-in"))
    assert await published(made, examples=False) == []
    assert list(made.service.definitions.outranked) == ["sign-in"]
    handed_back = await made.service.definitions.hand_back("sign-in")
    assert (handed_back.version, handed_back.flow.title) == (2, "Sign in")
