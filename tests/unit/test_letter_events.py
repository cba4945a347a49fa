"""The events of dead letters follow what is erased from the history."""

from typing import Any

from msgspec import UNSET, structs

from app.contracts.deliveries import DeadLetter
from app.contracts.integration import Integration
from app.contracts.state import StateId
from tests.support.rig import Rig, rig
from tests.support.samples import T0

ADA = StateId("loop", "ada")


async def made() -> tuple[Rig, DeadLetter]:
    """A state with one change, and the dead letter of its event, which names bob."""
    there = await rig()
    registration = Integration(alias="svc", registered_at=T0, updated_at=T0)
    await there.registrations.put(registration, None)
    state = (await there.flows.start_flow("ada", "loop")).state
    letter = DeadLetter(
        id="evt_1",
        alias="svc",
        state_id=ADA,
        epoch=state.epoch,
        revision=0,
        type="flow.started",
        at=T0,
        died_at=T0,
        reason="receiver",
        detail="",
        event={"id": "evt_1", "data": {"actor": "bob"}},
        edited_by="bob",
    )
    await there.letters.add([letter])
    return there, letter


async def stored(there: Rig) -> Any:
    found = await there.letters.get("svc", "evt_1")
    assert found is not None
    return found


async def test_an_event_that_differs_from_its_change_is_made_anew() -> None:
    there, letter = await made()
    await there.service.integrations.letter_events.renew(letter)
    found = await stored(there)
    assert (found.event["data"]["userId"], found.event["data"]["kind"]) == ("ada", "started")
    assert found.edited_by is UNSET


async def test_an_event_whose_change_is_too_old_to_be_read_remains() -> None:
    there, letter = await made()
    gone = structs.replace(letter, revision=7)
    await there.service.integrations.letter_events.renew(gone)
    assert await stored(there) == letter


async def test_a_person_is_in_no_event_afterwards_even_if_its_change_is_gone() -> None:
    there, letter = await made()
    await there.letters.add([structs.replace(letter, revision=7)])
    await there.service.integrations.letter_events.remove_person(ADA, "carl")
    assert (await stored(there)).event == letter.event
    await there.service.integrations.letter_events.remove_person(ADA, "bob")
    found = await stored(there)
    assert (found.event, found.edited_by) == (UNSET, UNSET)


async def test_one_who_edited_a_letter_is_in_it_no_more() -> None:
    there, letter = await made()
    await there.letters.add([structs.replace(letter, event={"id": "evt_1"})])
    await there.service.integrations.letter_events.remove_person(ADA, "bob")
    found = await stored(there)
    assert (found.event["data"]["userId"], found.edited_by) == ("ada", UNSET)
