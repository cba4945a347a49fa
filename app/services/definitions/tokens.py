"""State tokens: a user's position as a text for addresses, and its comparison with the stored state."""

from msgspec import Struct

from app.contracts.callers import Caller
from app.contracts.errors import FlowStateCorruptionError
from app.contracts.state import FlowState
from app.flow.tokens.state_token import StateHint, differences, encode_token, read_token, state_from_token
from app.services.definitions.publisher import Definitions
from app.services.definitions.state_reader import StateReader


class StateToken(Struct, frozen=True):
    """The token of a state, and the state that it was made from."""

    token: str
    state: FlowState


class TokenComparison(Struct, frozen=True):
    """A token beside the stored state.

    Attributes:
        hint: The content of the token, which anybody could have written.
        state: The stored state, None if none was started.
        version: The version by which the token was read: the one that the state runs on, else the newest.
        differences: The members of the hint that differ from the state, by their names in JSON.
    """

    hint: StateHint
    state: FlowState | None
    version: int
    differences: list[str]

    @property
    def matches(self) -> bool:
        """True if there is a state and nothing differs."""
        return self.state is not None and not self.differences


class StateTokens:
    """Writes and reads the tokens in which clients carry a position from page to page.

    A token is a hint and authorises nothing.
    """

    def __init__(self, states: StateReader, definitions: Definitions) -> None:
        self._states = states
        self._definitions = definitions

    async def encode(
        self, user_id: str, flow_id: str, *, entity_id: str | None = None, caller: Caller
    ) -> StateToken:
        """Encode a user's state as a token.

        Raises:
            FlowNotStartedError: There is no state.
            FlowNotFoundError: There is neither a state nor such a flow.
            InsufficientPermissionsError: The caller must not see the flow.
            PayloadTooLargeError: The token would be too long for an address.
            FlowStateCorruptionError: The flow lacks a step of the state.
        """
        state = await self._states.require(user_id, flow_id, caller, entity_id)
        definition = await self._definitions.version(state.flow, state.version, caller)
        return StateToken(encode_token(definition.flow, state), state)

    async def compare(
        self, user_id: str, token: str, *, entity_id: str | None = None, caller: Caller
    ) -> TokenComparison:
        """Compare a token with the user's stored state of its flow; changes nothing.

        Raises:
            InvalidRequestError: The text is no token, or names a step that the flow does not have.
            FlowNotFoundError: There is neither a state nor such a flow.
            InsufficientPermissionsError: The caller must not see the flow.
            PayloadTooLargeError: The token of the state would be too long for an address.
        """
        content = read_token(token)
        if entity_id is None and content.entity_id and await self._has_many(content.flow, caller):
            entity_id = content.entity_id
        state = await self._states.get(user_id, content.flow, caller, entity_id)
        if state is None:
            definition = await self._definitions.current(content.flow, caller)
            return TokenComparison(state_from_token(definition.flow, content), None, definition.version, [])
        definition = await self._definitions.version(state.flow, state.version, caller)
        hint = state_from_token(definition.flow, content)
        return TokenComparison(hint, state, definition.version, differences(definition.flow, hint, state))

    async def _has_many(self, flow_id: str, caller: Caller) -> bool:
        """Return true if a user has many states in a flow, so that the entity of a token says which."""
        try:
            newest = await self._definitions.newest(flow_id, caller)
        except FlowStateCorruptionError:  # a state can be read without it
            return False
        return newest is not None and newest.flow.instances == "many"
