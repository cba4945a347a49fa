"""What a message between workers says of those before it."""

import pytest

from realtime.redis.envelope import EnvelopeReader, EnvelopeWriter

KEY = bytes(32)
CHANNEL = "c"


@pytest.fixture
def sealer() -> EnvelopeWriter:
    return EnvelopeWriter(KEY, "one")


@pytest.fixture
def opener(sealer: EnvelopeWriter) -> EnvelopeReader:
    """Has heard one message."""
    opener = EnvelopeReader(KEY)
    received = opener.open(CHANNEL, sent(sealer))
    assert received is not None
    assert received.missed_since is None
    return opener


def sent(sealer: EnvelopeWriter) -> bytes:
    message = sealer.seal(CHANNEL, [])
    sealer.sent(CHANNEL)
    return message


def test_a_hole_in_the_numbers_is_a_loss(sealer: EnvelopeWriter, opener: EnvelopeReader) -> None:
    lost, after = sent(sealer), sent(sealer)
    received = opener.open(CHANNEL, after)
    assert received is not None
    assert received.missed_since is not None
    assert opener.open(CHANNEL, lost) is None, "too late: it was made up for"
    assert opener.open(CHANNEL, after) is None, "once"


def test_what_could_not_be_sent_is_said_with_its_time_and_is_no_hole(
    sealer: EnvelopeWriter, opener: EnvelopeReader
) -> None:
    later = 9_000_000_000_000  # than the last message that was heard
    for at in (later + 1000, later):
        sealer.seal(CHANNEL, [])
        sealer.record_loss(CHANNEL, at)
    assert sealer.unreported_losses == [CHANNEL]
    received = opener.open(CHANNEL, sent(sealer))
    assert received is not None
    assert received.missed_since == later / 1000, "the hole is explained, and needs no more than that"
    assert sealer.unreported_losses == []
    again = opener.open(CHANNEL, sent(sealer))
    assert again is not None
    assert again.missed_since is None


def test_a_loss_beside_what_could_not_be_sent_is_noticed_too(
    sealer: EnvelopeWriter, opener: EnvelopeReader
) -> None:
    sent(sealer)  # lost on its way, after the one that was heard at this moment
    sealer.seal(CHANNEL, [])
    sealer.record_loss(CHANNEL, 9_000_000_000_000)
    received = opener.open(CHANNEL, sent(sealer))
    assert received is not None
    assert received.missed_since is not None
    assert received.missed_since < 9_000_000_000


def test_a_gap_that_is_made_up_for_is_none(sealer: EnvelopeWriter, opener: EnvelopeReader) -> None:
    sent(sealer)
    opener.reset_sequences()
    received = opener.open(CHANNEL, sent(sealer))
    assert received is not None
    assert received.missed_since is None
    sent(sealer)
    later = opener.open(CHANNEL, sent(sealer))
    assert later is not None
    assert later.missed_since is not None, "from then on they count again"


def test_who_is_received_for_the_first_time_has_lost_nothing(sealer: EnvelopeWriter) -> None:
    sent(sealer)
    received = EnvelopeReader(KEY).open(CHANNEL, sent(sealer))
    assert received is not None
    assert received.missed_since is None


@pytest.mark.parametrize("spoil", [lambda m: m[:-1], lambda m: m + b" ", lambda m: bytes([m[0] ^ 1]) + m[1:]])
def test_what_is_not_as_it_was_signed_does_not_count(sealer: EnvelopeWriter, spoil: object) -> None:
    assert EnvelopeReader(KEY).open(CHANNEL, spoil(sent(sealer))) is None  # type: ignore[operator]
    assert EnvelopeReader(KEY).open("another", sent(sealer)) is None
    assert EnvelopeReader(bytes(31) + b"x").open(CHANNEL, sent(sealer)) is None


def test_what_is_noted_while_a_message_is_under_way_is_said_by_the_next(
    sealer: EnvelopeWriter, opener: EnvelopeReader
) -> None:
    message = sealer.seal(CHANNEL, [])
    sealer.record_loss(CHANNEL, 5_000)
    sealer.sent(CHANNEL)
    first, second = opener.open(CHANNEL, message), opener.open(CHANNEL, sent(sealer))
    assert first is not None
    assert second is not None
    assert (first.missed_since, second.missed_since) == (None, 5.0)
    assert sealer.unreported_losses == []
