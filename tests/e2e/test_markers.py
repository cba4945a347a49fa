"""No payload and no secret can be read in the database, in what Redis is sent, or in the log.

Every feature runs, with a marker in everything that users and services enter. In the clear are what a
definition and its states are about: ids of users and entities, names of flows, steps and transitions, and
fields that are marked ``searchable``.
"""

import asyncio
import base64
import secrets
import uuid
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from msgspec import Struct
from pydantic import SecretStr

from config.settings import Settings
from tests.support.faults import RedisServer
from tests.support.marked import Markers, secret_of_the_bus
from tests.support.marked_run import PEOPLE, MarkedRun
from tests.support.receivers import receiving
from tests.support.recording import RecordingProxy, stored_values
from tests.support.serving import Serving, external

pytestmark = pytest.mark.timeout(300)

ENCRYPTION_KEY = base64.b64encode(secrets.token_bytes(32)).decode()


class Capture(Struct):
    """The values that were stored, sent and logged. ``stored`` has values with their places."""

    markers: Markers
    stored: list[tuple[str, bytes]]
    sent_to_database: bytes
    sent_to_redis: bytes
    log: list[str]
    received: list[bytes]
    answers: list[str]

    def found_in(self, values: list[tuple[str, bytes]]) -> str:
        """Return a line for each place in which markers are, with their names."""
        found: dict[str, set[str]] = {}
        for place, value in values:
            names = self.markers.found(value)
            if names:
                found.setdefault(place, set()).update(names)
        return "\n".join(f"{place}: {' '.join(sorted(names))}" for place, names in sorted(found.items()))


@pytest.fixture(scope="module")
async def capture(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Capture]:
    """A run of every feature on two workers."""
    assert servers.mongo_url is not None
    redis_server = RedisServer()
    redis = await RecordingProxy(redis_server.port).start()
    url = servers.mongo_url.get_secret_value()
    port = urlsplit(url).port or 27017
    mongo = await RecordingProxy(port).start()
    own = servers.model_copy(
        update={
            "mongo_database": f"test_{uuid.uuid4().hex[:12]}",
            "mongo_url": SecretStr(url.replace(f":{port}", f":{mongo.port}")),
            "redis_url": SecretStr(f"redis://127.0.0.1:{redis.port}/0"),
            "encryption_keys": SecretStr(ENCRYPTION_KEY),
        }
    )
    env = {
        **external(own),
        "FLOW_LOG_LEVEL": "debug",
        "FLOW_LOG_FORMAT": "json",
        "FLOW_ENCRYPTION_KEYS": ENCRYPTION_KEY,
        "FLOW_SERVICES_STORE_ANSWERS": "true",
        "FLOW_SERVICES_PRIVATE_ADDRESSES": "127.0.0.0/8",
    }
    markers = Markers()
    markers.add_secret("secret of tokens", env["FLOW_JWT_SECRET"])
    markers.add_secret("encryption key", ENCRYPTION_KEY)
    markers.add_secret("encryption key", base64.b64decode(ENCRYPTION_KEY))
    folder = tmp_path_factory.mktemp("markers")
    serving = await asyncio.to_thread(Serving, "--workers", "2", env=env, cwd=folder)
    async with receiving() as receiver, MarkedRun(serving, receiver, markers) as run:
        markers.add_secret("secret of the bus", await secret_of_the_bus(own))
        await run.register_services()
        await run.change_states()
        await run.change_in_bulk()
        await run.deliver()
        await run.operate(url, own.mongo_database)
        stored = list(stored_values(url, own.mongo_database))
        await run.erase()
        stored += list(stored_values(url, own.mongo_database))
        received = [request.body for request in receiver.requests]
        answers = run.answers
    await asyncio.to_thread(serving.end)
    yield Capture(markers, stored, mongo.sent, redis.sent, serving.lines, received, answers)
    for proxy in (redis, mongo):
        await proxy.stop()
    redis_server.kill()


def test_the_markers_were_entered_and_come_back_to_those_who_may_see_them(capture: Capture) -> None:
    markers = capture.markers
    answered = markers.found("\n".join(capture.answers).encode())
    assert {"Start", "StartDeep", "Label", "Message", "PauseReason", "Ours", "Theirs", "Set"} <= answered
    assert {"Delivered", "Streamed"} <= markers.found(b"\n".join(capture.received))
    collections = {place.partition(".")[0] for place, _ in capture.stored}
    assert {"flow_states", "flow_history", "flow_dead_letters", "flow_integrations"} <= collections, (
        collections
    )
    assert len(capture.log) > 100


def test_the_database_has_no_marker(capture: Capture) -> None:
    found = capture.found_in(capture.stored)
    assert not found, found


def test_the_database_was_sent_no_marker(capture: Capture) -> None:
    found = capture.found_in([("sent", capture.sent_to_database)])
    assert not found, found


def test_redis_was_sent_no_marker(capture: Capture) -> None:
    assert b"XADD" in capture.sent_to_redis
    assert b"PUBLISH" in capture.sent_to_redis
    found = capture.found_in([("sent", capture.sent_to_redis)])
    assert not found, found


def test_no_line_of_the_log_has_a_marker(capture: Capture) -> None:
    found = capture.found_in([(line, line.encode()) for line in capture.log])
    assert not found, found


def test_neither_redis_nor_the_log_has_the_id_of_a_user(capture: Capture) -> None:
    """Channels and keys have hashes, and the log has names that only the operator can tell."""
    assert PEOPLE.found(b"\n".join(value for _, value in capture.stored))
    assert PEOPLE.found(capture.sent_to_redis) == set()
    lines = [line for line in capture.log if PEOPLE.found(line.encode())]
    assert not lines, "\n".join(lines)
