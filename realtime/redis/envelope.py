"""Messages between workers: sealed with AES-256-GCM, and numbered by their sender.

A forged, duplicate or late message is rejected, and a lost one is noticed. Redis sees the header: a byte for
the format, the id of the sender (16 bytes), and a number that counts all messages of the sender (8 bytes),
which is the nonce. Each sender has a key of its own, so that no nonce is used twice with a key.
"""

import itertools
import time
from collections import Counter
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import DecodeError, Struct, ValidationError, json

from app.contracts.events import Event

FORMAT = b"\x01"
HEADER_BYTES = 25
TAG_BYTES = 16
MAX_SENDERS = 1000
"""Senders whose keys a reader retains. That of another one is derived again for each message."""

_NONCE_PADDING = bytes(4)
_WIRE_NAMES = {"number": "n", "lost_since": "lost", "leaving": "bye"}


class Envelope(Struct, frozen=True, rename=_WIRE_NAMES, omit_defaults=True):
    """A message of a worker on a channel. One without events is a heartbeat, or reports only losses.

    Attributes:
        number: The number of the message among the sender's messages on this channel.
        events: The events.
        lost_since: The time of the oldest event that could not be sent on this channel before, in
            milliseconds since 1970.
        unsent: The number of messages that could not be sent.
        leaving: The worker is stopping: this is its last message.
    """

    number: int
    events: list[Event] = []
    lost_since: int | None = None
    unsent: int = 0
    leaving: bool = False


class EnvelopeWriter:
    """Numbers and seals this worker's messages.

    Args:
        secret: The secret that all workers share.
        worker: The id of this worker, a UUID. No other writer may have it, as messages are counted from 0.
    """

    def __init__(self, secret: bytes, worker: str) -> None:
        sender = UUID(worker).bytes
        self._cipher = _cipher_of(secret, sender)
        self._header = FORMAT + sender
        self._counter = itertools.count()
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
        body = json.encode(Envelope(number, events, lost_since, unsent, leaving))
        count = next(self._counter).to_bytes(8, "big")
        header = self._header + count
        return header + self._cipher.encrypt(_NONCE_PADDING + count, body, header + channel.encode())

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
        sender: The worker that sent it.
        envelope: The message.
        missed_since: The time, in seconds since 1970, since which messages of its sender on this channel may
            have been missed; None if none was.
    """

    sender: str
    envelope: Envelope
    missed_since: float | None


class EnvelopeReader:
    """Accepts messages that were sealed by a worker, and are newer than the last one of their sender.

    Args:
        secret: The secret that all workers share.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._senders: dict[bytes, tuple[str, AESGCM]] = {}
        self._decoder = json.Decoder(Envelope)
        self._last: dict[str, dict[str, tuple[int, float | None]]] = {}

    def read(self, channel: str, message: bytes) -> ReceivedEnvelope | None:
        """Return the message, None if it is forged, duplicate or late."""
        opened = self._open(channel, message)
        if opened is None:
            return None
        sender, body = opened
        try:
            envelope = self._decoder.decode(body)
        except (DecodeError, ValidationError, UnicodeDecodeError):  # of another version of this service
            return None
        now = time.time()
        senders = self._last.setdefault(channel, {})
        number, received_at = senders.get(sender, (envelope.number - 1, now))
        if envelope.number <= number:
            return None
        senders[sender] = (envelope.number, now)
        missed_since = None if envelope.lost_since is None else envelope.lost_since / 1000
        if envelope.number > number + 1 + envelope.unsent and received_at is not None:
            missed_since = received_at if missed_since is None else min(received_at, missed_since)
        return ReceivedEnvelope(sender, envelope, missed_since)

    def _open(self, channel: str, message: bytes) -> tuple[str, bytes] | None:
        """Return the sender and the body of a message, None if no worker sealed it for this channel."""
        if len(message) < HEADER_BYTES + TAG_BYTES or message[:1] != FORMAT:
            return None
        header, sender = message[:HEADER_BYTES], message[1:17]
        known = self._senders.get(sender)
        worker, cipher = known or (str(UUID(bytes=sender)), _cipher_of(self._secret, sender))
        try:
            nonce = _NONCE_PADDING + header[17:]
            body = cipher.decrypt(nonce, message[HEADER_BYTES:], header + channel.encode())
        except InvalidTag:
            return None
        if known is None:  # only now: forged messages must not displace the keys of workers
            if len(self._senders) >= MAX_SENDERS:
                del self._senders[next(iter(self._senders))]
            self._senders[sender] = worker, cipher
        return worker, body

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
        self._senders.pop(UUID(sender).bytes, None)
        for senders in self._last.values():
            senders.pop(sender, None)


def _cipher_of(secret: bytes, sender: bytes) -> AESGCM:
    """Return the cipher of a sender."""
    derivation = HKDF(algorithm=SHA256(), length=32, salt=sender, info=b"server-flow bus 1")
    return AESGCM(derivation.derive(secret))
