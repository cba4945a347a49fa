"""Recognises repeated requests: the same id by the same caller gives the first answer again.

The document of a state remembers its last requests, so that the check costs no read. Only if it may have
forgotten some of the last day, the history is searched too.
"""

from datetime import datetime
from hashlib import blake2b

from msgspec import UNSET, Struct, UnsetType, json

from app.contracts.commands import Origin
from app.contracts.errors import Fault, InvalidRequestError
from app.contracts.ports.history import HistoryStore
from app.contracts.ports.keys import UserKeys
from app.contracts.ports.states import IDEMPOTENCY_WINDOW, REMEMBERED_REQUESTS, StoredState
from app.contracts.record import HistoryRecord, RememberedRequest, named_payload, request_key
from app.contracts.state import FlowState
from app.services.delivery.payloads import Payloads

DIGEST_BYTES = 12


class RequestFingerprint(Struct, frozen=True):
    """A digest of the content of a request with an id.

    Args:
        digest: The digest.
        key: The keyed digest of the caller and the id; "" if digests have no key here.
        unkeyed: The digest as a service without a key makes it.
    """

    digest: str
    key: str
    unkeyed: str

    @property
    def stored(self) -> str:
        """The text that a record has."""
        return f"{self.digest}.{self.key}" if self.key else self.digest

    def matches(self, stored: str | UnsetType) -> bool:
        """Return whether a stored digest is one of the same request."""
        return stored is not UNSET and stored.partition(".")[0] in (self.digest, self.unkeyed)


class RequestFingerprints:
    """Makes fingerprints of requests.

    Args:
        keys: Make digests useless for guessing what was entered; None: they have no key, as the data
            beside them is not encrypted either.
    """

    def __init__(self, keys: UserKeys | None = None) -> None:
        self._keys = keys

    async def of(self, user_id: str, name: str, command: object, origin: Origin) -> RequestFingerprint | None:
        """Return the fingerprint of a request for a state of a user, None if it has no id.

        Raises:
            StoreUnavailableError: The data key of the user cannot be read.
        """
        if origin.request_id is UNSET:
            return None
        try:
            content = json.encode([name, command], order="deterministic")
        except (UnicodeEncodeError, TypeError):  # not JSON: the decision refuses it
            return None
        unkeyed = blake2b(content, digest_size=DIGEST_BYTES).hexdigest()
        if self._keys is None:
            return RequestFingerprint(unkeyed, "", unkeyed)
        request = f"{origin.actor}\0{origin.request_id}".encode()
        digest = await self._keys.digest(user_id, content)
        return RequestFingerprint(digest, await self._keys.digest(user_id, request), unkeyed)


class Idempotency:
    """Finds the state to which a request led when it came first."""

    def __init__(self, history: HistoryStore, fingerprints: RequestFingerprints) -> None:
        self.fingerprint = fingerprints.of
        self._history = history
        self._payloads = Payloads(history)

    async def answer(
        self, stored: StoredState, origin: Origin, request: RequestFingerprint, now: datetime
    ) -> FlowState | None:
        """Return the state to which the same request led, None if it is new.

        Raises:
            InvalidRequestError: The id came with another request before.
        """
        known = self._remembered(stored, origin, request, now)
        if known is not None:
            _require_same(known.digest, request)
            return await self._state_at(stored, known)
        if _remembers_all(stored, now):
            return None
        record = await self._search(stored, origin, now)
        if record is None:
            return None
        _require_same(record.digest, request)
        return await self._state_of(record, stored)

    def _remembered(
        self, stored: StoredState, origin: Origin, request: RequestFingerprint, now: datetime
    ) -> RememberedRequest | None:
        if origin.request_id is UNSET:
            return None
        keys = (request.key, request_key(origin.actor, origin.request_id))
        since = now - IDEMPOTENCY_WINDOW
        return next((r for r in reversed(stored.recent) if r.request in keys and r.at > since), None)

    async def _state_at(self, stored: StoredState, known: RememberedRequest) -> FlowState:
        state = stored.state
        if (state.epoch, state.revision) == (known.epoch, known.revision):
            return state
        wanted = f"{state.key}:{known.epoch}:{known.revision}"
        waiting = next((r for r in stored.pending if r.id == wanted), None)
        record = waiting or await self._history.get(wanted)
        return state if record is None else await self._state_of(record, stored)

    async def _state_of(self, record: HistoryRecord, stored: StoredState) -> FlowState:
        """Return the state to which a record led, the present one if that is no longer known."""
        (whole,) = await self._payloads.complete([record], stored.pending)
        return stored.state if whole.after is UNSET or named_payload(whole) is not None else whole.after

    async def _search(self, stored: StoredState, origin: Origin, now: datetime) -> HistoryRecord | None:
        actor, request_id, state = origin.actor, origin.request_id, stored.state
        if request_id is UNSET:
            return None
        waiting = (r for r in stored.pending if (r.actor, r.request_id) == (actor, request_id))
        return next(waiting, None) or await self._history.find_request(
            state.id, actor, request_id, now - IDEMPOTENCY_WINDOW
        )


def _remembers_all(stored: StoredState, now: datetime) -> bool:
    """Return true if the document has every request of the idempotency window."""
    return len(stored.recent) < REMEMBERED_REQUESTS or stored.recent[0].at <= now - IDEMPOTENCY_WINDOW


def _require_same(before: str | UnsetType, request: RequestFingerprint) -> None:
    if not request.matches(before):
        raise InvalidRequestError(
            [Fault("/Idempotency-Key", "was used for another request; use a new key for this one")]
        )
