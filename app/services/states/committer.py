"""Commits changes: builds the record, links it to the one before it, commits it, and has it delivered."""

import time
from datetime import datetime, timedelta
from functools import partial
from secrets import token_hex

from msgspec import UNSET, UnsetType, json, structs

from app.contracts.callers import Caller
from app.contracts.commands import Origin, trusted_origin
from app.contracts.errors import FlowError, FlowStateCorruptionError
from app.contracts.ports.states import IDEMPOTENCY_WINDOW, DamagedState, StateStore, StoredState
from app.contracts.record import HistoryRecord, PayloadPlace, commit_record_id, state_after
from app.contracts.state import TERMINAL_STATUSES, FlowState
from app.flow import timers
from app.flow.history_chain import seal
from app.flow.people.person_salts import with_people
from app.flow.values.search_terms import search_terms
from app.kit.ids import later_id, new_id
from app.services.definitions.catalog import DefinitionCatalog
from app.services.delivery.relay import Relay
from app.services.states.state_command import ProposedChange

SYSTEM = trusted_origin("system", client="service")
SALT_BYTES = 16


class CommandContext:
    """The parts of a record that do not come from the change: its origin and its duration."""

    def __init__(self, origin: Origin, digest: str | UnsetType = UNSET) -> None:
        self.origin = origin
        self.digest = digest
        self._began = time.perf_counter()

    @property
    def milliseconds(self) -> float:
        """The milliseconds since the execution began."""
        return round((time.perf_counter() - self._began) * 1000, 3)


class Committer:
    """Makes changes durable.

    ``state_ttl`` is how long states live whose flow does not say it. An ended state stays as the anchor of
    its history for as long as that is retained (``retention``).
    """

    def __init__(
        self,
        states: StateStore,
        relay: Relay,
        catalog: DefinitionCatalog,
        *,
        state_ttl: timedelta | None,
        retention: timedelta | None,
    ) -> None:
        self._states = states
        self._relay = relay
        self._catalog = catalog
        self._state_ttl = state_ttl
        self._retention = retention

    async def make(
        self, stored: StoredState | None, change: ProposedChange, attempt: CommandContext, now: datetime
    ) -> HistoryRecord | None:
        """Commit a change and return its record, None if another commit was first."""
        before = None if stored is None else stored.state
        head = "" if stored is None else stored.head
        payload_at = None if stored is None else stored.payload_at
        record = self._record(before, head, change, attempt, now, payload_at)
        position = None if before is None else before.position
        if not await self._states.commit(position, await self._searchable(record)):
            return None
        # A commit on top of records that are not delivered yet delivers those first, so that every worker
        # receives the changes of a state in their order, whichever worker made them.
        waiting = () if stored is None else stored.deliverable
        self._relay.enqueue((*waiting, structs.replace(record, duration_ms=attempt.milliseconds)))
        return record

    async def replace(
        self,
        damaged: DamagedState | None,
        head: str,
        change: ProposedChange,
        attempt: CommandContext,
        now: datetime,
    ) -> HistoryRecord | None:
        """Commit a change in the place of a damaged state, or of one whose document is lost.

        Args:
            damaged: The damaged state, None if its document is lost.
            head: The hash of the last record in the history.
            change: The change.
            attempt: The origin and the start of the command.
            now: The time of the change.

        Returns:
            The record, None if the state has changed meanwhile.
        """
        record = self._record(None, head, change, attempt, now)
        searchable = await self._searchable(record)
        if damaged is None:
            made = await self._states.commit(None, searchable)
        else:
            await self._relay.deliver(damaged.pending)
            made = await self._states.replace(damaged, searchable)
        if not made:
            return None
        self._relay.enqueue([structs.replace(record, duration_ms=attempt.milliseconds)])
        return record

    def refuse(
        self, stored: StoredState, name: str, error: FlowError, attempt: CommandContext, now: datetime
    ) -> None:
        """Record that a command was refused; the caller does not wait for it."""
        state, caller = stored.state, attempt.origin.caller
        commit = new_id()
        actor_salt = _salt_of(state, attempt.origin.actor)
        if actor_salt is UNSET and caller.user_id != state.user_id and not caller.acts_for_all:
            actor_salt = token_hex(SALT_BYTES)  # one of a group, whom no commit names yet
        record = HistoryRecord(
            id=f"{commit_record_id(state)}:{commit}",
            commit_id=commit,
            flow_id=state.flow,
            user_id=state.user_id,
            instance_id=state.instance_id,
            epoch=state.epoch,
            revision=state.revision,
            version=state.version,
            kind="refused",
            transition=name[:64],
            from_step=state.step,
            to_step=state.step,
            timestamp=now,
            success=False,
            service=state.service,
            actor=attempt.origin.actor,
            actor_salt=actor_salt,
            error=error.code,
            request_id=attempt.origin.request_id,
            client=attempt.origin.client,
            duration_ms=attempt.milliseconds,
        )
        self._relay.enqueue([seal(record, stored.head, token_hex(SALT_BYTES))])

    async def _searchable(self, record: HistoryRecord) -> HistoryRecord:
        """Return a record whose state has the terms by which it is found; its hash does not cover them."""
        after = state_after(record)
        terms: tuple[str, ...] | UnsetType = UNSET
        if after.status not in TERMINAL_STATUSES:
            try:
                definition = await self._catalog.version(after.flow, after.version)
            except FlowStateCorruptionError:  # a state may be recovered without it
                definition = None
            if definition is not None and definition.flow.searchable is not None:
                terms = search_terms(after.flow, definition.flow.searchable, after.payload)
        if terms is UNSET:
            return record
        return structs.replace(record, after=structs.replace(after, search_terms=terms))

    def _record(
        self,
        before: FlowState | None,
        head: str,
        change: ProposedChange,
        attempt: CommandContext,
        now: datetime,
        payload_at: PayloadPlace | None = None,
    ) -> HistoryRecord:
        after = self._with_expiry(change, now)
        if before is not None and before.epoch != after.epoch:
            after = structs.replace(after, epoch=later_id(before.epoch, after.epoch))
        after = _with_people(before, after, attempt.origin.caller)
        record = HistoryRecord(
            id=commit_record_id(after),
            commit_id=new_id(),
            flow_id=after.flow,
            user_id=after.user_id,
            instance_id=after.instance_id,
            epoch=after.epoch,
            revision=after.revision,
            version=after.version,
            kind=change.kind,
            transition=change.name,
            from_step="" if before is None or before.epoch != after.epoch else before.step,
            to_step=after.step,
            timestamp=now,
            success=True,
            service=after.service,
            actor=attempt.origin.actor,
            actor_salt=_salt_of(after, attempt.origin.actor),
            payload=change.payload,
            merged=change.merged,
            after=after,
            payload_revision=self._payload_revision(before, after, payload_at, now),
            request_id=attempt.origin.request_id,
            digest=attempt.digest,
            client=attempt.origin.client,
        )
        return seal(record, head, token_hex(SALT_BYTES))

    def _payload_revision(
        self, before: FlowState | None, after: FlowState, payload_at: PayloadPlace | None, now: datetime
    ) -> int | UnsetType:
        """Return the revision whose record has the payload already, UNSET if this one must have it.

        Where history is pruned, the payload is repeated from time to time, so that it is not removed before
        the records that name it.
        """
        if before is None or payload_at is None or before.epoch != after.epoch or after.payload is UNSET:
            return UNSET
        if self._retention is not None and now - payload_at.since > repeat_payload_after(self._retention):
            return UNSET
        if after.payload is before.payload or json.encode(after.payload) == json.encode(before.payload):
            return payload_at.revision
        return UNSET

    def _with_expiry(self, change: ProposedChange, now: datetime) -> FlowState:
        """Return the state with its expiry counted from this change.

        A pause and a resumption do not renew it: they stop and start its clock (app.flow.timers). Nor does
        the erasure of a person, unless it makes the tombstone of a state that was removed.
        """
        after = change.after
        if change.kind in ("paused", "resumed") or (change.kind == "pseudonymised" and after.revision > 0):
            return after
        if after.status in TERMINAL_STATUSES:
            ttl = None if self._retention is None else max(IDEMPOTENCY_WINDOW, self._retention)
        else:
            ttl = change.ttl or self._state_ttl
        if ttl is None:
            return structs.replace(after, expires_at=UNSET, expiry_left_ms=UNSET)
        if after.status == "paused":
            return structs.replace(after, expires_at=UNSET, expiry_left_ms=timers.milliseconds(ttl))
        return structs.replace(after, expires_at=now + ttl, expiry_left_ms=UNSET)


def _with_people(before: FlowState | None, after: FlowState, caller: Caller) -> FlowState:
    """Return the state with a salt for every person whom its records name, also in earlier epochs."""
    earlier = UNSET if before is None else before.people
    is_own = caller.user_id == after.user_id or caller.acts_for_all
    named = (earlier, after.participants, after.votes, after.runs)  # a claim needs a participant
    if is_own and all(each is UNSET for each in named):
        return after
    known = earlier if after.people is UNSET else after.people  # none is left after an erasure
    people = with_people(known, after, caller, partial(token_hex, SALT_BYTES))
    return after if people == after.people else structs.replace(after, people=people)


def _salt_of(state: FlowState, actor: str) -> str | UnsetType:
    """Return the salt of the commitment to an actor, UNSET if its id is sealed as it is."""
    people = () if state.people is UNSET else state.people
    return next((person.salt for person in people if person.user_id == actor), UNSET)


def repeat_payload_after(retention: timedelta) -> timedelta:
    """Return how long records may name a payload instead of repeating it, given the retention of history.

    For so long before the end of its retention a record may be without its payload.
    """
    return min(retention / 10, timedelta(days=1))
