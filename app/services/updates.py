"""What followers of a state are told of a change."""

import structlog
from msgspec import Raw

from app.contracts.events import StateChanged
from app.contracts.record import HistoryRecord, state_after
from app.contracts.state import ENDED
from app.contracts.views import encode, state_updated_event
from app.flow.rules import with_transitions
from app.services.catalog import DefinitionCatalog
from config.log import describe

log = structlog.get_logger("updates")


class Updates:
    """Makes events of the records of commits."""

    def __init__(self, catalog: DefinitionCatalog) -> None:
        self._catalog = catalog

    async def of(self, record: HistoryRecord) -> StateChanged:
        """The state that a commit led to, with what may run next, and what led to it."""
        state = state_after(record)
        if state.status not in ENDED:
            try:
                state = with_transitions(await self._catalog.pinned(state), state)
            except Exception as error:  # noqa: BLE001 - the change itself must be told
                log.error("state told without transitions", state=state.key, **describe(error))
        return StateChanged(
            user_id=state.user_id,
            flow_id=state.flow,
            epoch=state.epoch,
            revision=state.revision,
            at=int(record.timestamp.timestamp() * 1000),
            body=Raw(encode(state_updated_event(state, record))),
        )
