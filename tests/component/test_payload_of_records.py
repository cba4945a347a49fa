"""A large payload is stored, and sent to the database, once for all changes that leave it as it was."""

import bson

from app.contracts.commands import StartCommand, trusted_origin
from app.contracts.positions import HeldPosition
from app.contracts.record import state_after
from app.main import Backend
from config.settings import Settings
from models.database import connect
from tests.support.databases import SentCommands
from tests.support.samples import flow_dict
from tests.support.services import service_on

PAYLOAD = {"text": "x" * 60_000}
CHANGES = 20


async def test_what_a_change_leaves_is_neither_sent_nor_stored_again(
    parts: Backend, settings: Settings
) -> None:
    assert settings.mongo_url is not None
    sent = SentCommands()
    counted = connect(settings.mongo_url.get_secret_value(), settings.mongo_database, [sent])
    try:
        async with service_on(counted) as service:
            flows = service.as_trusted()
            await service.create_flow(flow_dict())
            first, _ = await flows.start_flow("ada", "loop", StartCommand(payload=PAYLOAD))
            await service.background.relay.drain(5)
            sent.commands.clear()
            for _ in range(CHANGES):
                last = await flows.execute_transition("ada", "loop", "again")
            await service.background.relay.drain(5)
            assert sum(len(str(command)) for command in sent.commands) < CHANGES * 10_000
            assert last.payload == PAYLOAD
            history = await flows.get_flow_history("ada", "loop")
            assert all(state_after(record).payload == PAYLOAD for record in history)
            found = await flows.get_flow_events("ada", "loop", HeldPosition(first.epoch, CHANGES - 5))
            assert (found.complete, len(found.events)) == (True, 5)
            assert (await flows.verify_flow_history("ada", "loop")).whole
        records = await parts.database.collection("flow_history").find().to_list(None)
        assert len(records) == CHANGES + 1
        assert sum(len(bson.encode(record)) for record in records) < 2 * 60_000 + CHANGES * 3_000
        stored = await parts.database.collection("flow_states").find_one({"_id": "loop:ada"})
        assert stored is not None
        assert stored["payloadRevision"] == 0
        recovered = await parts.service.administration.recover_flow(
            "ada", "loop", origin=trusted_origin("ada")
        )
        assert recovered.action == "kept"
    finally:
        await counted.close()
