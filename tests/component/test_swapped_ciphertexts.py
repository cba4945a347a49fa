"""Whoever changes sealed texts and data keys in the database gets an error, and never the data of another."""

import secrets
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from app.contracts.callers import Caller
from app.contracts.commands import Origin, StartCommand
from app.contracts.errors import FlowError
from app.main import Backend
from config.settings import Settings
from tests.support.samples import flow_dict

USERS = ("ada", "bob", "service", "user:ada")
Document = dict[str, Any]


@pytest.fixture
async def backend(settings: Settings) -> AsyncIterator[Backend]:
    """A worker that encrypts, with a state of each user."""
    key = b64encode(secrets.token_bytes(32)).decode()
    made = Backend(settings.model_copy(update={"encryption_keys": SecretStr(key)}))
    async with made.running() as service:
        await service.create_flow(flow_dict())
        for user in USERS:
            start = StartCommand(payload={"who": f"MARK-{user}"})
            await service.start_flow(user, "loop", start, origin=Origin(Caller(user)))
            again = Origin(Caller(user), request_id="first")
            await service.execute_transition(user, "loop", "again", {}, message=f"MARK-{user}", origin=again)
        assert await service.background.relay.drain(5)
        yield made


async def read(backend: Backend) -> list[str]:
    """Return what the ways to read a state of ada show: a text, or the code of the error."""
    flows, found = backend.service.as_trusted(), []
    for reading in (
        flows.get_flow_state("ada", "loop"),
        flows.get_flow_history("ada", "loop"),
        flows.verify_flow_history("ada", "loop"),
        flows.get_user_flows("ada"),
        backend.service.personal_data.export("ada"),
    ):
        try:
            found.append(repr(await reading))
        except FlowError as error:
            found.append(error.code)
    return found


async def by_user(backend: Backend) -> dict[str, Document]:
    documents = await backend.database.collection("flow_states").find({}).to_list(None)
    return {document["userId"]: document for document in documents}


@pytest.mark.expected_logs("damaged document")
async def test_a_sealed_text_opens_nowhere_else(backend: Backend) -> None:
    states = backend.database.collection("flow_states")
    found = await by_user(backend)
    ada = found["ada"]
    (record, *_) = await backend.database.collection("flow_history").find({"userId": "ada"}).to_list(None)
    sealed = bytes(ada["payload"])
    others = [found[user]["payload"] for user in USERS[1:]]
    for text in [
        *others,
        ada["message"],
        record["after"]["payload"],
        b"",
        b"\x01",
        b"\x02" + sealed[1:],
        b"\x03" + sealed[1:],
        sealed[:-1],
        5,
        [sealed],
    ]:
        await states.replace_one({"_id": ada["_id"]}, {**ada, "payload": text})
        state, *rest = await read(backend)
        assert state == "FLOW_STATE_CORRUPTION", text
        assert not any(f"MARK-{user}" in shown for user in USERS[1:] for shown in rest)
    await states.replace_one({"_id": ada["_id"]}, {**ada, "payload": '{"who": "forged"}'})
    assert "whole=False" in (await read(backend))[2], "a text in the clear is read, and does not verify"
    await states.replace_one({"_id": ada["_id"]}, ada)
    assert "MARK-ada" in (await read(backend))[0]


@pytest.mark.expected_logs("damaged document", "data key damaged", "stored data key unreadable")
async def test_a_changed_data_key_opens_nothing_and_disturbs_nobody_else(backend: Backend) -> None:
    keys = backend.database.collection("flow_data_keys")
    found = {document["_id"]: document for document in await keys.find({}).to_list(None)}
    ada, bob = found["user:ada"], found["user:bob"]["current"]
    own = ada["current"]
    destroyed = {"id": "zz", "at": own["createdAt"], "by": "root"}
    assert backend.encryption.keys is not None
    for changed in (
        {"current": bob},
        {"current": {**bob, "id": own["id"]}},
        {"current": {**own, "wrapped": b""}},
        {"current": {**own, "id": "zz"}},
        {"current": {**own, "id": own["id"][:2]}},
        {"current": [own]},
        {"current": None, "destroyed": [destroyed]},
    ):
        await keys.replace_one({"_id": "user:ada"}, {**ada, **changed})
        backend.encryption.keys.forget_all()
        assert (await read(backend))[0] == "FLOW_STATE_CORRUPTION", changed
        with pytest.raises(FlowError):
            await backend.service.execute_transition("ada", "loop", "again", origin=Origin(Caller("ada")))
        assert "MARK-bob" in repr(await backend.service.as_trusted().get_user_flows("bob"))
    await keys.replace_one({"_id": "user:ada"}, ada)
    backend.encryption.keys.forget_all()
    assert "MARK-ada" in (await read(backend))[0]
