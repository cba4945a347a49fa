"""Messages between workers: signed, and numbered by their sender.

A forged, duplicate or late message is rejected, and a lost one is noticed.
"""

import time
from collections import Counter
from hashlib import blake2b
from hmac import compare_digest

from msgspec import DecodeError, Struct, ValidationError, json

from app.contracts.events import Event

SIGNATURE_BYTES = 16

_WIRE_NAMES = {"number": "n", "sender": "s", "lost_since": "lost", "leaving": "bye"}


class Envelope(Struct, frozen=True, rename=_WIRE_NAMES, omit_defaults=True):
    """A message of a worker on a channel. One without events is a heartbeat, or reports only losses.

    Attributes:
        sender: The worker's id.
        number: The number of the message among the sender's messages on this channel.
        events: The events.
        lost_since: The time of the oldest event that could not be sent on this channel before, in
            milliseconds since 1970.
        unsent: The number of messages that could not be sent.
        leaving: The worker is stopping: this is its last message.
    """

    sender: str
    number: int
    events: list[Event] = []
    lost_since: int | None = None
    unsent: int = 0
    leaving: bool = False


class EnvelopeWriter:
    """Numbers and signs this worker's messages. All workers share the key."""

    def __init__(self, key: bytes, worker: str) -> None:
        self._key = key
        self._worker = worker
        self._numbers: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._new_losses: dict[str, int] = {}
        self._losses: dict[str, int] = {}

    def write(self, channel: str, events: list[Event], *, leaving: bool = False) -> bytes:
        """Return the next message on a channel, which also reports losses there."""
        unsent = self._numbers[channel] - self._sent[channel]
        self._numbers[channel] += 1
        if channel in self._new_losses:
            at = self._new_losses.pop(channel)
            self._losses[channel] = min(at, self._losses.get(channel, at))
        number, lost_since = self._numbers[channel], self._losses.get(channel)
        body = json.encode(Envelope(self._worker, number, events, lost_since, unsent, leaving))
        return _signature(self._key, channel, body) + body

    def record_loss(self, channel: str, at: int) -> None:
        """Record that an event of the time ``at`` may not have been sent: the next message reports it."""
        self._new_losses[channel] = min(at, self._new_losses.get(channel, at))

    def record_sent(self, channel: str) -> None:
        """Record that the last message on a channel was sent, with the losses that it reported."""
        self._sent[channel] = self._numbers[channel]
        self._losses.pop(channel, None)

    @property
    def unreported_losses(self) -> list[str]:
        """Channels with lost messages that no later message has reported yet."""
        return list(self._losses.keys() | self._new_losses.keys())


class ReceivedEnvelope(Struct, frozen=True):
    """An accepted message.

    Attributes:
        envelope: The message.
        missed_since: The time, in seconds since 1970, since which messages of its sender on this channel may
            have been missed; None if none was.
    """

    envelope: Envelope
    missed_since: float | None


class EnvelopeReader:
    """Accepts messages that are signed with the key, and newer than the last one of their sender."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._decoder = json.Decoder(Envelope)
        self._last: dict[str, dict[str, tuple[int, float | None]]] = {}

    def read(self, channel: str, message: bytes) -> ReceivedEnvelope | None:
        """Return the message, None if it is forged, duplicate or late."""
        body = message[SIGNATURE_BYTES:]
        if not compare_digest(message[:SIGNATURE_BYTES], _signature(self._key, channel, body)):
            return None
        try:
            envelope = self._decoder.decode(body)
        except (DecodeError, ValidationError, UnicodeDecodeError):  # of another version of this service
            return None
        now = time.time()
        senders = self._last.setdefault(channel, {})
        number, received_at = senders.get(envelope.sender, (envelope.number - 1, now))
        if envelope.number <= number:
            return None
        senders[envelope.sender] = (envelope.number, now)
        missed_since = None if envelope.lost_since is None else envelope.lost_since / 1000
        if envelope.number > number + 1 + envelope.unsent and received_at is not None:
            missed_since = received_at if missed_since is None else min(received_at, missed_since)
        return ReceivedEnvelope(envelope, missed_since)

    def reset_sequences(self) -> None:
        """Do not report messages sent before now as missed: this worker's own outage covers them."""
        for senders in self._last.values():
            for sender, (number, _) in senders.items():
                senders[sender] = (number, None)

    def forget_channel(self, channel: str) -> None:
        """Forget a channel that this worker is no longer subscribed to."""
        self._last.pop(channel, None)

    def forget_sender(self, sender: str) -> None:
        """Forget a worker that has stopped."""
        for senders in self._last.values():
            senders.pop(sender, None)


def _signature(key: bytes, channel: str, body: bytes) -> bytes:
    mac = blake2b(channel.encode(), key=key, digest_size=SIGNATURE_BYTES)
    mac.update(b"\0")
    mac.update(body)
    return mac.digest()
