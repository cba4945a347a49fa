"""Sealed entries of streams: the documented form, what it is bound to, and secrets that rotate."""

import base64
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.contracts.integration import IntegrationSecret
from app.outbound.webhook_signatures import SecretError
from realtime.consumer.events import MalformedEntryError, event_of_entry
from realtime.redis import entry_seals
from realtime.redis.entry_seals import EntryOpener, EntrySealer, EntrySealers, MissingSecretError
from tests.support.documentation import block
from tests.support.javascript import node

STREAM = "server-flow:server_flow:events:payment"
TYPE = "flow.step.entered"
REFERENCE, GUIDE = "docs/reference/service-events.md", "docs/guides/services.md"
READS_ENTRIES = """
import { openEntry } from './open-entry.mjs';

const { stream, secrets, entries } = JSON.parse(process.argv[2]);
for (const entry of entries) {
  const fields = Object.entries(entry).map(([name, value]) => [name, Buffer.from(value, 'base64')]);
  try {
    console.log(JSON.stringify(openEntry(stream, Object.fromEntries(fields), secrets)));
  } catch (error) {
    console.log(JSON.stringify(error.message));
  }
}
"""


def secret(number: int) -> IntegrationSecret:
    text = base64.b64encode(bytes([number]) * 32).decode()
    return IntegrationSecret(f"whs_{number}", f"whsec_{text}", datetime(2026, 1, 1, tzinfo=UTC))


def text_of(event_id: str, event_type: str = TYPE) -> bytes:
    event = {"id": event_id, "type": event_type, "data": {"flowId": "f", "userId": "ada"}}
    return json.dumps(event).encode()


def entry_of(sealer: EntrySealer, event_id: str, stream: str = STREAM) -> dict[bytes, bytes]:
    sealed = sealer.seal(stream, event_id, TYPE, text_of(event_id))
    return {
        b"id": event_id.encode(),
        b"type": TYPE.encode(),
        b"event": sealed,
        b"sealed": b"1",
        b"secret": sealer.secret_id.encode(),
    }


def opener(*numbers: int, stream: str = STREAM) -> EntryOpener:
    return EntryOpener(stream, [secret(number).secret for number in numbers])


def test_the_documented_values_open() -> None:
    documented = json.loads(block(REFERENCE, "json", '"sealed"'))
    opened = EntryOpener(documented["stream"], [documented["secret"]]).open(
        base64.b64decode(documented["sealed"]), seal_format="1", secret_id="whs_1", event_id=documented["id"],
        event_type=documented["type"], entry="1-0",
    )  # fmt: skip
    assert opened.decode() == documented["event"]


def test_an_entry_has_nothing_of_the_event_in_the_clear_and_no_two_are_alike() -> None:
    sealer = EntrySealer(secret(1))
    sealed = [entry_of(sealer, "evt_1")[b"event"] for _ in range(100)]
    assert not any(b"ada" in each for each in sealed)
    assert len({each[:28] for each in sealed}) == 100, "salt and nonce"
    assert entry_of(EntrySealer(secret(1)), "evt_1")[b"event"][:16] != sealed[0][:16], "another worker"


def test_entries_of_the_old_secret_open_while_the_consumer_has_it() -> None:
    old, new = (entry_of(EntrySealer(secret(n)), f"evt_{n}") for n in (1, 2))
    clear = {b"id": b"evt_3", b"type": TYPE.encode(), b"event": text_of("evt_3")}
    for consumer in (opener(2, 1), opener(1, 2)):
        read = [event_of_entry("1-0", fields, 1, consumer).id for fields in (old, new, clear, old)]
        assert read == ["evt_1", "evt_2", "evt_3", "evt_1"]
    for consumer in (opener(2), opener()):
        with pytest.raises(
            MissingSecretError, match=r"entry 7-0 .* webhook secret whs_1 .*secrets=\["
        ) as raised:
            event_of_entry("7-0", old, 1, consumer)
        assert (raised.value.secret_id, raised.value.entry) == ("whs_1", "7-0")


@pytest.mark.parametrize(
    "changes",
    [
        {b"id": b"evt_2"},
        {b"type": b"flow.completed"},
        {b"event": b""},
        {b"event": bytes(44)},
        {b"sealed": b"2"},
        {b"sealed": b"\xff"},
    ],
    ids=str,
)
def test_a_changed_entry_is_malformed(changes: dict[bytes, bytes]) -> None:
    consumer, sealer = opener(1), EntrySealer(secret(1))
    assert event_of_entry("1-0", entry_of(sealer, "evt_1"), 1, consumer).id == "evt_1"
    with pytest.raises(MalformedEntryError):
        event_of_entry("2-0", {**entry_of(sealer, "evt_1"), **changes}, 1, consumer)


def test_each_byte_of_a_sealed_event_counts_and_it_opens_in_its_stream_alone() -> None:
    consumer, fields = opener(1), entry_of(EntrySealer(secret(1)), "evt_1")
    event_of_entry("1-0", fields, 1, consumer)
    sealed = fields[b"event"]
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(MalformedEntryError):
            event_of_entry("1-0", {**fields, b"event": changed}, 1, consumer)
    elsewhere = opener(1, stream=STREAM + "2")
    with pytest.raises(MissingSecretError):
        event_of_entry("1-0", fields, 1, elsewhere)


def test_a_text_that_is_no_secret_is_refused_without_repeating_it() -> None:
    with pytest.raises(SecretError) as raised:
        EntryOpener(STREAM, ["whsec_not!a!secret"])
    assert "not!a!secret" not in str(raised.value)


def test_the_keys_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry_seals, "MAX_SEALERS", 2)
    monkeypatch.setattr(entry_seals, "MAX_CIPHERS", 2)
    sealers, consumer = EntrySealers(), opener(*range(1, 6))
    for number in (1, 2, 3, 4, 5, 1):
        sealer = sealers.of(secret(number))
        assert sealers.of(secret(number)) is sealer
        assert event_of_entry("1-0", entry_of(sealer, "evt_1"), 1, consumer).id == "evt_1"
    assert len(sealers._sealers) == len(consumer._ciphers) == 2


def test_the_program_in_node_opens_entries(tmp_path: Path) -> None:
    """The program of the guide, with what a client of Redis gives it."""
    old, new = (entry_of(EntrySealer(secret(n)), f"evt_{n}") for n in (1, 2))
    clear = {b"id": b"evt_3", b"type": TYPE.encode(), b"event": text_of("evt_3")}
    moved = {**new, b"id": b"evt_9"}
    documented = json.loads(block(REFERENCE, "json", '"sealed"'))
    known = {
        b"id": documented["id"].encode(),
        b"type": documented["type"].encode(),
        b"event": base64.b64decode(documented["sealed"]),
        b"sealed": b"1",
    }
    entries = [
        {name.decode(): base64.b64encode(value).decode() for name, value in fields.items()}
        for fields in (old, new, clear, moved, {**new, b"sealed": b"2"}, known)
    ]
    secrets = [secret(2).secret, secret(1).secret, documented["secret"]]
    given = {"stream": STREAM, "secrets": secrets, "entries": entries}
    (tmp_path / "open-entry.mjs").write_text(block(GUIDE, "js", "openEntry"))
    (tmp_path / "main.mjs").write_text(READS_ENTRIES)
    command = node(str(tmp_path / "main.mjs"), json.dumps(given))
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    printed: list[Any] = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [each["id"] for each in printed[:3]] == ["evt_1", "evt_2", "evt_3"]
    assert printed[0] == json.loads(text_of("evt_1"))
    assert printed[3] == "the secret whs_2 is missing, or the entry was changed"
    assert printed[4] == "the format 2 is not known"
    assert printed[5] == json.loads(documented["event"])
    assert not ended.stderr
