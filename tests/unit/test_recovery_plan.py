"""The plan of a recovery: which position and which state come after all known ones."""

from datetime import timedelta

import pytest
from msgspec import structs

from app.contracts.errors import FlowNotStartedError
from app.contracts.ports.states import DamagedState, StoredState
from app.contracts.record import UnreadableRecord
from app.contracts.state import StatePosition
from app.services.states.consistency import MAX_CREDIBLE_LEAD
from app.services.states.recovery_plan import Found, RecoveryPlan
from tests.support.samples import T0, definition, fresh

EPOCH, LATER = "018f0000-0000-7000-8000-000000000001", "018f0000-0000-7000-8000-000000000002"
LAST = structs.replace(fresh(), epoch=EPOCH, revision=5)
NEWEST = UnreadableRecord("loop:ada:6", "torn", EPOCH, 6)
REBUILT = RecoveryPlan("rebuilt", "torn", "", NEWEST, None, LAST)
RESTARTED = RecoveryPlan("restarted", "torn", "", NEWEST)


def damaged(epoch: object, revision: object) -> DamagedState:
    return DamagedState(StatePosition("loop:ada", epoch, revision), "torn")


@pytest.mark.parametrize(
    ("found", "position"),
    [
        (StoredState(LAST), (EPOCH, 7)),
        (damaged(EPOCH, 6), (EPOCH, 7)),
        (damaged(EPOCH, 9), (EPOCH, 10)),
        (damaged(EPOCH, 6 + MAX_CREDIBLE_LEAD), (EPOCH, 7 + MAX_CREDIBLE_LEAD)),
        (damaged(EPOCH, 7 + MAX_CREDIBLE_LEAD), (EPOCH, 7)),
        (damaged(EPOCH, "x"), (EPOCH, 7)),
        (damaged(EPOCH, True), (EPOCH, 7)),
        (damaged("", 9), (EPOCH, 7)),
    ],
)
def test_the_position_follows_all_that_are_known(found: Found, position: tuple[str, int]) -> None:
    assert REBUILT.position(found) == position


@pytest.mark.parametrize("found", [None, damaged(LATER, 2)])
def test_an_epoch_that_is_not_known_to_its_end_is_not_continued(found: Found | None) -> None:
    epoch, revision = REBUILT.position(found)
    assert epoch > LATER
    assert revision == 0


def test_a_rebuilt_state_is_the_last_valid_one() -> None:
    change, now = REBUILT.change(LAST.id, damaged(EPOCH, 6), definition(), T0 + timedelta(seconds=1))
    assert (change.kind, change.after.step, change.after.revision) == ("recovered", LAST.step, 7)
    assert change.payload == {"action": "rebuilt", "reason": "torn", "step": LAST.step}
    assert now == T0 + timedelta(seconds=1)
    _, now = REBUILT.change(LAST.id, damaged(EPOCH, 6), definition(), T0 - timedelta(days=1))
    assert now == LAST.updated_at, "time never goes back within a state"


def test_without_a_valid_record_the_state_begins_again() -> None:
    change, _ = RESTARTED.change(LAST.id, damaged(EPOCH, 6), definition(), T0)
    assert (change.after.step, change.after.revision) == ("a", 0)
    assert change.after.epoch > EPOCH
    assert change.payload == {"action": "restarted", "reason": "torn"}


def test_an_expired_state_is_rebuilt_as_one_that_has_ended() -> None:
    expired = structs.replace(LAST, expires_at=T0)
    plan = structs.replace(REBUILT, last=expired)
    later = T0 + timedelta(days=1)
    change, _ = plan.change(LAST.id, damaged(EPOCH, 6), definition(), later)
    assert (change.after.status, change.after.revision) == ("expired", 7)
    with pytest.raises(FlowNotStartedError):
        plan.change(LAST.id, None, definition(), later)
