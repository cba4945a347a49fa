"""What a message between workers says of those before it."""

import pytest

from realtime.redis.envelope import Opener, Sealer

KEY = bytes(32)
CHANNEL = "c"


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(KEY, "one")


@pytest.fixture
def opener(sealer: Sealer) -> Opener:
    """Has heard one message."""
    opener = Opener(KEY)
    received = opener.open(CHANNEL, sent(sealer))
    assert received is not None
    assert received.missed_since is None
    return opener


def sent(sealer: Sealer) -> bytes:
    message = sealer.seal(CHANNEL, [])
    sealer.sent(CHANNEL)
    return message


def test_a_hole_in_the_numbers_is_a_loss(sealer: Sealer, opener: Opener) -> None:
    lost, after = sent(sealer), sent(sealer)
    received = opener.open(CHANNEL, after)
    assert received is not None
    assert received.missed_since is not None
    assert opener.open(CHANNEL, lost) is None, "too late: it was made up for"
    assert opener.open(CHANNEL, after) is None, "once"


def test_what_could_not_be_sent_is_said_with_its_time_and_is_no_hole(sealer: Sealer, opener: Opener) -> None:
    later = 9_000_000_000_000  # than the last message that was heard
    for at in (later + 1000, later):
        sealer.seal(CHANNEL, [])
        sealer.lose(CHANNEL, at)
    assert sealer.in_debt == [CHANNEL]
    received = opener.open(CHANNEL, sent(sealer))
    assert received is not None
    assert received.missed_since == later / 1000, "the hole is explained, and needs no more than that"
    assert sealer.in_debt == []
    again = opener.open(CHANNEL, sent(sealer))
    assert again is not None
    assert again.missed_since is None


def test_a_loss_beside_what_could_not_be_sent_is_noticed_too(sealer: Sealer, opener: Opener) -> None:
    sent(sealer)  # lost on its way, after the one that was heard at this moment
    sealer.seal(CHANNEL, [])
    sealer.lose(CHANNEL, 9_000_000_000_000)
    received = opener.open(CHANNEL, sent(sealer))
    assert received is not None
    assert received.missed_since is not None
    assert received.missed_since < 9_000_000_000


def test_a_gap_that_is_made_up_for_is_none(sealer: Sealer, opener: Opener) -> None:
    sent(sealer)
    opener.expect_gaps()
    received = opener.open(CHANNEL, sent(sealer))
    assert received is not None
    assert received.missed_since is None
    sent(sealer)
    later = opener.open(CHANNEL, sent(sealer))
    assert later is not None
    assert later.missed_since is not None, "from then on they count again"


def test_who_is_heard_for_the_first_time_has_lost_nothing(sealer: Sealer) -> None:
    sent(sealer)
    received = Opener(KEY).open(CHANNEL, sent(sealer))
    assert received is not None
    assert received.missed_since is None


@pytest.mark.parametrize("spoil", [lambda m: m[:-1], lambda m: m + b" ", lambda m: bytes([m[0] ^ 1]) + m[1:]])
def test_what_is_not_as_it_was_signed_does_not_count(sealer: Sealer, spoil: object) -> None:
    assert Opener(KEY).open(CHANNEL, spoil(sent(sealer))) is None  # type: ignore[operator]
    assert Opener(KEY).open("another", sent(sealer)) is None
    assert Opener(bytes(31) + b"x").open(CHANNEL, sent(sealer)) is None


def test_what_is_noted_while_a_message_is_under_way_is_said_by_the_next(
    sealer: Sealer, opener: Opener
) -> None:
    message = sealer.seal(CHANNEL, [])
    sealer.lose(CHANNEL, 5_000)
    sealer.sent(CHANNEL)
    first, second = opener.open(CHANNEL, message), opener.open(CHANNEL, sent(sealer))
    assert first is not None
    assert second is not None
    assert (first.missed_since, second.missed_since) == (None, 5.0)
    assert sealer.in_debt == []
