"""Messages between workers: seals, numbers, and reports of lost messages."""

import pytest
from msgspec import Raw

from app.contracts.events import StateChanged
from realtime.redis import envelope
from realtime.redis.envelope import HEADER_BYTES, EnvelopeReader, EnvelopeWriter

KEY = bytes(32)
CHANNEL = "c"
WORKER = "01a2b3c4-0000-7000-8000-000000000001"


@pytest.fixture
def writer() -> EnvelopeWriter:
    return EnvelopeWriter(KEY, WORKER)


@pytest.fixture
def reader(writer: EnvelopeWriter) -> EnvelopeReader:
    """A reader that has received one message."""
    reader = EnvelopeReader(KEY)
    received = reader.read(CHANNEL, next_message(writer))
    assert received is not None
    assert received.missed_since is None
    return reader


def next_message(writer: EnvelopeWriter) -> bytes:
    message = writer.write(CHANNEL, [])
    writer.record_sent(CHANNEL)
    return message


def test_a_hole_in_the_numbers_is_a_loss(writer: EnvelopeWriter, reader: EnvelopeReader) -> None:
    lost, after = next_message(writer), next_message(writer)
    received = reader.read(CHANNEL, after)
    assert received is not None
    assert received.missed_since is not None
    assert reader.read(CHANNEL, lost) is None, "too late: it was reported as missed"
    assert reader.read(CHANNEL, after) is None, "once"


def test_an_unsent_message_is_reported_with_its_time_and_is_no_hole(
    writer: EnvelopeWriter, reader: EnvelopeReader
) -> None:
    later = 9_000_000_000_000  # than the last message received
    for at in (later + 1000, later):
        writer.write(CHANNEL, [])
        writer.record_loss(CHANNEL, at)
    assert writer.unreported_losses == [CHANNEL]
    received = reader.read(CHANNEL, next_message(writer))
    assert received is not None
    assert received.missed_since == later / 1000, "the hole has no other cause"
    assert writer.unreported_losses == []
    again = reader.read(CHANNEL, next_message(writer))
    assert again is not None
    assert again.missed_since is None


def test_a_lost_message_beside_an_unsent_one_is_noticed_too(
    writer: EnvelopeWriter, reader: EnvelopeReader
) -> None:
    next_message(writer)  # lost after the one received at this moment
    writer.write(CHANNEL, [])
    writer.record_loss(CHANNEL, 9_000_000_000_000)
    received = reader.read(CHANNEL, next_message(writer))
    assert received is not None
    assert received.missed_since is not None
    assert received.missed_since < 9_000_000_000


def test_messages_before_a_reset_of_the_sequences_are_not_missed(
    writer: EnvelopeWriter, reader: EnvelopeReader
) -> None:
    next_message(writer)
    reader.reset_sequences()
    received = reader.read(CHANNEL, next_message(writer))
    assert received is not None
    assert received.missed_since is None
    next_message(writer)
    later = reader.read(CHANNEL, next_message(writer))
    assert later is not None
    assert later.missed_since is not None, "later ones are"


def test_the_first_message_of_a_sender_reports_no_loss(writer: EnvelopeWriter) -> None:
    next_message(writer)
    received = EnvelopeReader(KEY).read(CHANNEL, next_message(writer))
    assert received is not None
    assert received.missed_since is None


def test_a_message_that_was_changed_anywhere_is_rejected(writer: EnvelopeWriter) -> None:
    reader = EnvelopeReader(KEY)
    message = next_message(writer)
    changed = [message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :] for at in range(len(message))]
    truncated = [message[:length] for length in range(len(message))]
    for spoiled in (*changed, *truncated, message + b" ", message[1:]):
        assert reader.read(CHANNEL, spoiled) is None
    assert reader.read("another", message) is None
    assert reader.read(CHANNEL + "c", message) is None
    assert EnvelopeReader(bytes(31) + b"x").read(CHANNEL, message) is None
    received = reader.read(CHANNEL, message)
    assert received is not None, "rejected messages leave no trace"
    assert received.sender == WORKER


def test_a_message_has_nothing_in_the_clear_but_its_sender_and_number(writer: EnvelopeWriter) -> None:
    event = StateChanged(
        user_id="ada", flow_id="f", epoch="e", revision=1, at=1_700_000_000_000, body=Raw(b'{"a":"secret"}')
    )
    message = writer.write(CHANNEL, [event])
    assert message[:HEADER_BYTES].hex() == "01" + WORKER.replace("-", "") + "0" * 16
    for text in (b"ada", b"secret", b"{"):
        assert text not in message[HEADER_BYTES:]
    received = EnvelopeReader(KEY).read(CHANNEL, message)
    assert received is not None
    assert received.envelope.events == [event]


def test_a_sender_uses_no_nonce_twice_and_senders_have_different_keys(writer: EnvelopeWriter) -> None:
    headers = {writer.write(channel, [])[:HEADER_BYTES] for channel in ("a", "b", "a") for _ in range(100)}
    assert len(headers) == 300, "one count for all channels"
    other = EnvelopeWriter(KEY, WORKER[:-1] + "2")
    one, two = EnvelopeWriter(KEY, WORKER).write(CHANNEL, []), other.write(CHANNEL, [])
    assert one[HEADER_BYTES:] != two[HEADER_BYTES:], "the same text and nonce"
    assert EnvelopeReader(KEY).read(CHANNEL, two[:1] + one[1:17] + two[17:]) is None


def test_the_keys_of_many_senders_are_bounded_and_forged_ones_displace_none(
    writer: EnvelopeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envelope, "MAX_SENDERS", 3)
    reader = EnvelopeReader(KEY)
    assert reader.read(CHANNEL, next_message(writer)) is not None
    for number in range(10):
        forged = EnvelopeWriter(b"another", WORKER[:-1] + f"{number}")
        assert reader.read(CHANNEL, forged.write(CHANNEL, [])) is None
    assert len(reader._senders) == 1
    for number in range(2, 10):
        assert reader.read(CHANNEL, EnvelopeWriter(KEY, WORKER[:-1] + f"{number}").write(CHANNEL, []))
    assert len(reader._senders) == 3
    assert reader.read(CHANNEL, next_message(writer)) is not None, "derived again"


def test_a_loss_during_a_send_is_reported_by_the_next_message(
    writer: EnvelopeWriter, reader: EnvelopeReader
) -> None:
    message = writer.write(CHANNEL, [])
    writer.record_loss(CHANNEL, 5_000)
    writer.record_sent(CHANNEL)
    first, second = reader.read(CHANNEL, message), reader.read(CHANNEL, next_message(writer))
    assert first is not None
    assert second is not None
    assert (first.missed_since, second.missed_since) == (None, 5.0)
    assert writer.unreported_losses == []
