"""Payloads that records name instead of repeating them."""

from collections.abc import Iterable, Sequence

from app.contracts.ports.history import HistoryStore
from app.contracts.record import HistoryRecord, named_payload, own_payloads, with_payloads
from app.flow.history_chain import is_intact


class Payloads:
    """Completes records that were read."""

    def __init__(self, history: HistoryStore) -> None:
        self._history = history

    async def complete(
        self, records: Sequence[HistoryRecord], among: Iterable[HistoryRecord] = ()
    ) -> list[HistoryRecord]:
        """Complete records with the payloads that they name.

        Args:
            records: Records of one state or several.
            among: Further records that may have the payloads, such as those that are not in the history yet.

        Returns:
            The records in their order. A record whose payload is missing, or is in a record that was changed,
            is returned as it was; ``named_payload`` finds those.
        """
        named = {record_id for record in records if (record_id := named_payload(record)) is not None}
        if not named:
            return list(records)
        near = [record for record in (*records, *among) if record.id in named and is_intact(record)]
        payloads = own_payloads(near)
        missing = sorted(named - payloads.keys())
        if missing:
            found = await self._history.get_many(missing)
            payloads |= own_payloads([record for record in found if is_intact(record)])
        return with_payloads(records, payloads)
