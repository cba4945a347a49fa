"""Messages between workers: signed, and numbered by their sender, so that one that is forged, doubled or
late is not taken, and one that is lost is noticed."""

import time
from collections import Counter
from hashlib import blake2b
from hmac import compare_digest

from msgspec import DecodeError, Struct, ValidationError, json

from app.contracts.events import Event

SIGNATURE_BYTES = 16


class Envelope(Struct, frozen=True, rename={"number": "n", "sender": "s"}, omit_defaults=True):
    """A message of a worker on a channel: its ``number``-th message there. ``lost`` is the time of the oldest
    event that it could not send there before, in milliseconds since 1970, and ``unsent`` how many messages
    that were. One without events is a heartbeat, or says only what was lost; ``bye`` is a worker's last."""

    sender: str
    number: int
    events: list[Event] = []
    lost: int | None = None
    unsent: int = 0
    bye: bool = False


class EnvelopeWriter:
    """Numbers and signs what this worker sends, with the key that all workers share."""

    def __init__(self, key: bytes, worker: str) -> None:
        self._key = key
        self._worker = worker
        self._numbers: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._noted: dict[str, int] = {}
        self._lost: dict[str, int] = {}

    def seal(self, channel: str, events: list[Event], *, bye: bool = False) -> bytes:
        """The next message on a channel, which also says what was lost there."""
        unsent = self._numbers[channel] - self._sent[channel]
        self._numbers[channel] += 1
        if channel in self._noted:
            at = self._noted.pop(channel)
            self._lost[channel] = min(at, self._lost.get(channel, at))
        number, lost = self._numbers[channel], self._lost.get(channel)
        body = json.encode(Envelope(self._worker, number, events, lost, unsent, bye))
        return _signature(self._key, channel, body) + body

    def record_loss(self, channel: str, at: int) -> None:
        """Note that an event of the time ``at`` may not have been sent: the next message says so."""
        self._noted[channel] = min(at, self._noted.get(channel, at))

    def sent(self, channel: str) -> None:
        """Note that the last message on a channel was sent, with what it said of lost ones."""
        self._sent[channel] = self._numbers[channel]
        self._lost.pop(channel, None)

    @property
    def unreported_losses(self) -> list[str]:
        """Channels on which something was lost that nobody was told of."""
        return list(self._lost.keys() | self._noted.keys())


class Received(Struct, frozen=True):
    """A message that counts, and since when its sender's messages on this channel may have been missed, in
    seconds since 1970."""

    envelope: Envelope
    missed_since: float | None


class EnvelopeReader:
    """Takes what others sent: what is signed with the key, and no older than the last of its sender."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._decoder = json.Decoder(Envelope)
        self._last: dict[str, dict[str, tuple[int, float | None]]] = {}

    def open(self, channel: str, message: bytes) -> Received | None:
        """The message; None when it is forged, doubled or late."""
        body = message[SIGNATURE_BYTES:]
        if not compare_digest(message[:SIGNATURE_BYTES], _signature(self._key, channel, body)):
            return None
        try:
            envelope = self._decoder.decode(body)
        except (DecodeError, ValidationError, UnicodeDecodeError):  # of another version of this service
            return None
        now = time.time()
        senders = self._last.setdefault(channel, {})
        number, heard_at = senders.get(envelope.sender, (envelope.number - 1, now))
        if envelope.number <= number:
            return None
        senders[envelope.sender] = (envelope.number, now)
        missed = None if envelope.lost is None else envelope.lost / 1000
        if envelope.number > number + 1 + envelope.unsent and heard_at is not None:
            missed = heard_at if missed is None else min(heard_at, missed)
        return Received(envelope, missed)

    def reset_sequences(self) -> None:
        """Count what was sent up to now as not missed any more: it is being made up for."""
        for senders in self._last.values():
            for sender, (number, _) in senders.items():
                senders[sender] = (number, None)

    def forget_channel(self, channel: str) -> None:
        """This worker does not hear it any more."""
        self._last.pop(channel, None)

    def forget_sender(self, sender: str) -> None:
        """It has ended."""
        for senders in self._last.values():
            senders.pop(sender, None)


def _signature(key: bytes, channel: str, body: bytes) -> bytes:
    mac = blake2b(channel.encode(), key=key, digest_size=SIGNATURE_BYTES)
    mac.update(b"\0")
    mac.update(body)
    return mac.digest()
