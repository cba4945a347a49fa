"""The events of dead letters, without what was erased from the history."""

from typing import Any

from msgspec import UNSET, json, structs

from app.contracts.deliveries import DeadLetter, LanePosition
from app.contracts.errors import FlowStateCorruptionError
from app.contracts.ports.deliveries import DeadLetters
from app.contracts.ports.integrations import IntegrationStore
from app.contracts.state import StateId
from app.services.definitions.catalog import DefinitionCatalog
from app.services.integrations.events import IntegrationEvents, UndeliverableEventError
from app.services.integrations.lane_changes import LaneChanges

PAGE_SIZE = 100


class LetterEvents:
    """Makes events of stored letters anew, as letters are the only copies of data of the history.

    An erasure changes the history first and the letters then. So a letter that is stored later, of an event
    that was on its way meanwhile, is compared with the history once it is stored.

    Args:
        letters: The letters.
        registrations: The registrations.
        events: Makes events of changes.
        changes: Reads changes.
        catalog: The definitions.
    """

    def __init__(
        self,
        letters: DeadLetters,
        registrations: IntegrationStore,
        events: IntegrationEvents,
        changes: LaneChanges,
        catalog: DefinitionCatalog,
    ) -> None:
        self._letters = letters
        self._registrations = registrations
        self._events = events
        self._changes = changes
        self._catalog = catalog

    async def renew(self, letter: DeadLetter) -> None:
        """Replace the event of a stored letter that differs from its change in the history.

        One whose change is not there any more, because of its age, remains.

        Raises:
            StoreUnavailableError: The store cannot be reached.
        """
        event = None if letter.event is UNSET else await self._event(letter)
        if event is not None and event != letter.event:
            await self._letters.replace(structs.replace(letter, event=event, edited_by=UNSET))

    async def remove_person(self, state_id: StateId, user_id: str) -> None:
        """Make the events of a state anew that name a person, who is not in its history any more.

        Raises:
            StoreUnavailableError: The store cannot be reached.
        """
        after = None
        while True:
            page = await self._letters.find_of_state(state_id, after, PAGE_SIZE)
            for letter in page.items:
                if letter.edited_by == user_id or _names(letter.event, user_id):
                    event = await self._event(letter) or UNSET
                    await self._letters.replace(structs.replace(letter, event=event, edited_by=UNSET))
            if page.next is None:
                return
            after = page.next

    async def _event(self, letter: DeadLetter) -> dict[str, Any] | None:
        """Return the event of the change as the history has it now, None if there is none."""
        integration = await self._registrations.get(letter.alias)
        position = LanePosition(letter.epoch, letter.revision)
        record = await self._changes.find(letter.state_id, position)
        if record is None or integration is None:
            return None
        try:
            definition = await self._catalog.version(record.flow_id, record.version)
        except FlowStateCorruptionError:
            definition = None
        flow = None if definition is None else definition.flow
        await self._events.prepare()
        replay = letter.event is not UNSET and letter.event.get("replay") is True
        try:
            event = self._events.event(integration, record, letter.type, flow=flow, replay=replay)
        except UndeliverableEventError:
            return None
        found: dict[str, Any] = json.decode(event.body)
        return found


def _names(value: Any, user_id: str) -> bool:
    """Return whether a person is named anywhere in a JSON value."""
    if isinstance(value, dict):
        return any(_names(key, user_id) or _names(member, user_id) for key, member in value.items())
    if isinstance(value, list):
        return any(_names(member, user_id) for member in value)
    return isinstance(value, str) and value == user_id
