"""Another server-flow as a remote source of definitions."""

from typing import Any

import pytest

from app.contracts.errors import DefinitionSourceError
from app.services.definitions.source_mirror import SourceMirror
from app.sources.remote import RemoteSource
from tests.support.serving import Serving

WHERE = "FLOW_DEFINITIONS_AUTH, of a provider its authentication"


async def slugs(source: RemoteSource) -> list[Any]:
    return [found.raw["flow"] for found in await source.load()]


async def refusal(source: RemoteSource) -> str:
    with pytest.raises(DefinitionSourceError) as refused:
        await source.load()
    message = str(refused.value)
    assert message.startswith(f"{source.name}: ")
    return message.removeprefix(f"{source.name}: ")


@pytest.mark.expected_logs(
    "definition has a warning", optional=True
)  # about flows that other tests published
async def test_another_server_flow_can_be_the_remote(serving: Serving) -> None:
    token = serving.token("reader")
    source = RemoteSource(f"{serving.url}/api/flows?limit=1", auth=f"bearer:{token}")
    found = await slugs(source)
    assert {"sign-in", "user-onboarding"} <= set(found)
    assert found == sorted(set(found))
    copy = SourceMirror(source)
    await copy.refresh()
    assert copy.faults == []
    assert copy.flows.keys() == set(found)
    anonymous = RemoteSource(f"{serving.url}/api/flows")
    assert await refusal(anonymous) == f"needs credentials (it answers 401): {WHERE}"
