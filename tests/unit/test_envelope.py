"""Messages between workers: signatures, numbers, and reports of lost messages."""

import pytest

from realtime.redis.envelope import EnvelopeReader, EnvelopeWriter

KEY = bytes(32)
CHANNEL = "c"


@pytest.fixture
def writer() -> EnvelopeWriter:
    return EnvelopeWriter(KEY, "one")


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


@pytest.mark.parametrize("spoil", [lambda m: m[:-1], lambda m: m + b" ", lambda m: bytes([m[0] ^ 1]) + m[1:]])
def test_a_message_that_was_changed_is_rejected(writer: EnvelopeWriter, spoil: object) -> None:
    assert EnvelopeReader(KEY).read(CHANNEL, spoil(next_message(writer))) is None  # type: ignore[operator]
    assert EnvelopeReader(KEY).read("another", next_message(writer)) is None
    assert EnvelopeReader(bytes(31) + b"x").read(CHANNEL, next_message(writer)) is None


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
