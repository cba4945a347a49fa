"""Prefabs: tokens of new states, with which a client enters a flow."""

from msgspec import structs

from app.contracts.flow import Flow
from app.flow.tokens.state_token import fresh_token


def with_prefabs(flow: Flow) -> Flow:
    """Return the flow with a token for each ``initial`` step, by its name.

    They replace those of the author: as in the base system, they follow from slug and index, and are not
    stored.
    """
    prefabs = {name: fresh_token(flow, step) for name, step in flow.steps.items() if step.initial}
    return structs.replace(flow, prefabs=prefabs)
