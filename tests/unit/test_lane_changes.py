"""The changes after a position: complete although other workers store them in any order."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from app.contracts.deliveries import Lane, LaneId, LanePosition
from app.contracts.record import HistoryRecord
from app.contracts.state import StateId
from app.services.integrations.lane_changes import LaneChanges, position_in_lane
from tests.support.dispatching import FLOW, Deliveries
from tests.support.virtual_time import START, run_virtually

ADA = StateId(FLOW, "ada")


async def four_changes(made: Deliveries) -> list[HistoryRecord]:
    await made.prepare()
    await made.change("ada")
    await made.change("ada", "go", "back", "go")
    return made.records("ada")


def lane(records: list[HistoryRecord], **changes: Any) -> Lane:
    return Lane(id=LaneId("payment", ADA), since=START, newest=position_in_lane(records[-1]), **changes)


def test_records_in_hand_are_used_as_far_as_there_is_no_gap() -> None:
    async def run() -> None:
        made = Deliveries()
        zero, one, two, three = await four_changes(made)
        changes = LaneChanges(made.history, made.clock)

        def found(cursor: HistoryRecord | None, *hand: HistoryRecord) -> list[int]:
            place = None if cursor is None else position_in_lane(cursor)
            return [record.revision for record in changes.from_hand(place, hand)]

        assert found(None, zero, one) == [0, 1]
        assert found(None, one) == []
        assert found(zero, three, one, two) == [1, 2, 3]
        assert found(zero, one, three) == [1]
        assert found(one, zero, one, two) == [2]
        assert found(three, zero) == []
        assert found(None, structs.replace(zero, previous_hash="x")) == [], "the state had an epoch before"
        assert found(zero, structs.replace(one, epoch="later")) == []
        naming = structs.replace(one, payload_revision=0)
        assert found(zero, naming) == [], "another record has its payload"

    run_virtually(run())


@pytest.mark.parametrize(("stored_late", "reads"), [(1, 2), (3, 1)])
def test_a_change_that_is_stored_after_the_next_one_is_read_again(stored_late: int, reads: int) -> None:
    """The outbox is read before the changes are made, the history when one of them is still missing."""

    async def run() -> None:
        made = Deliveries()
        records = await four_changes(made)
        late = records[stored_late]
        outbox = made.rig.states.stored.pop(ADA.key)
        await made.rig.history.append([record for record in records if record is not late])
        read, began = made.rig.history.read, 0

        async def read_torn(*arguments: Any) -> Any:
            nonlocal began
            began += 1
            page = await read(*arguments)
            made.rig.states.stored[ADA.key] = outbox
            return page

        made.rig.history.read = read_torn  # type: ignore[method-assign,assignment]
        page = await LaneChanges(made.history, made.clock).read(lane(records), None)
        shown = [record.revision for record in page.records]
        assert shown == ([0, 1, 2, 3] if stored_late == 1 else [0, 1, 2])
        assert began == reads

    run_virtually(run())


def test_an_old_gap_is_one_of_removed_records() -> None:
    async def run() -> None:
        made = Deliveries()
        records = await four_changes(made)
        made.rig.states.stored.clear()
        await made.rig.history.append([records[0], *records[2:]])
        began = 0
        read = made.rig.history.read

        async def counted(*arguments: Any) -> Any:
            nonlocal began
            began += 1
            return await read(*arguments)

        made.rig.history.read = counted  # type: ignore[method-assign,assignment]
        later = made.clock.now() + timedelta(minutes=5)

        class Later:
            def now(self) -> Any:
                return later

        page = await LaneChanges(made.history, Later()).read(lane(records), None)
        assert [record.revision for record in page.records] == [0, 2, 3]
        assert began == 1

    run_virtually(run())


def test_the_end_of_a_job_is_its_last_change() -> None:
    async def run() -> None:
        made = Deliveries()
        records = await four_changes(made)
        changes = LaneChanges(made.history, made.clock)
        job = lane(records, end=position_in_lane(records[2]))
        page = await changes.read(job, position_in_lane(records[0]))
        assert [record.revision for record in page.records] == [1, 2]
        assert not page.more
        for record in records:
            assert await changes.find(ADA, position_in_lane(record)) == record
        assert await changes.find(ADA, LanePosition(records[0].epoch, 9)) is None

    run_virtually(run())
