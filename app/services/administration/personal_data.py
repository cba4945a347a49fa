"""Export and erasure of the stored data of one user."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from operator import attrgetter
from secrets import token_hex
from typing import NamedTuple

import structlog
from msgspec import structs

from app.contracts.callers import Caller
from app.contracts.commands import Origin
from app.contracts.erasures import ErasureReceipt
from app.contracts.errors import FlowError, StateBusyError, StoreUnavailableError
from app.contracts.identifiers import require_text
from app.contracts.ports.clock import Clock
from app.contracts.ports.definitions import DefinitionStore
from app.contracts.ports.deliveries import DeadLetters
from app.contracts.ports.history import HistoryStore
from app.contracts.ports.reports import CorruptionReports
from app.contracts.ports.states import DamagedState, StateStore, StoredState
from app.contracts.record import HistoryRecord, commit_record_id, position_of, state_after
from app.contracts.results import ErasedUser, Erasure, PersonalData
from app.contracts.state import FlowState, StateId
from app.flow.history_chain import is_receipt
from app.kit.ids import later_id, new_id
from app.services.administration.erasure_receipts import ERASURE, claims_hash, erasure_claims
from app.services.administration.pseudonymisation import Pseudonymisation
from app.services.audit.log import CANCELLED, AuditLog, OpenAct
from app.services.audit.pseudonyms import erased_user
from app.services.delivery.relay import Relay
from app.services.states.committer import CommandContext, Committer
from app.services.states.endings import Endings
from app.services.states.erasure_keys import ErasureKeys
from app.services.states.history import HistoryReader
from app.services.states.recovery import Recovery
from app.services.states.state_command import ProposedChange

log = structlog.get_logger("personal-data")

MAX_ATTEMPTS = 50
MAX_DRAIN_SECONDS = 5.0
SALT_BYTES = 16


class PersonalDataExport(NamedTuple):
    """The stored states of a user, without records, and the iterator over their records."""

    states: PersonalData
    records: AsyncIterator[HistoryRecord]


class PersonalDataRequests:
    """Serves requests for the export and the erasure of personal data."""

    def __init__(
        self,
        states: StateStore,
        history: HistoryStore,
        definitions: DefinitionStore,
        reader: HistoryReader,
        commits: Committer,
        recovery: Recovery,
        relay: Relay,
        reports: CorruptionReports,
        letters: DeadLetters,
        others: Pseudonymisation,
        keys: ErasureKeys,
        endings: Endings,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._states = states
        self._history = history
        self._definitions = definitions
        self._reader = reader
        self._commits = commits
        self._recovery = recovery
        self._relay = relay
        self._reports = reports
        self._letters = letters
        self._others = others
        self._keys = keys
        self._endings = endings
        self._audit = audit
        self._clock = clock

    async def export(self, user_id: str, *, caller: Caller | None = None) -> PersonalData:
        """Return everything stored of a user's own states, by flow, oldest records first.

        States of others that name the user are data of their owners.

        Raises:
            InvalidRequestError: The user id is invalid.
        """
        found = await self.begin_export(user_id, caller)
        return structs.replace(found.states, history=[record async for record in found.records])

    async def begin_export(self, user_id: str, caller: Caller | None = None) -> PersonalDataExport:
        """Return what is stored of a user, with the history to be read page by page.

        Args:
            user_id: The user.
            caller: The reader, by default a program.

        Raises:
            InvalidRequestError: The user id is invalid.
        """
        require_text(user_id)
        act = await self._audit.begin("user.export", "user", caller or "python", user_id=user_id)
        return PersonalDataExport(await self._states_of(user_id), self._audited_history(user_id, act))

    async def _audited_history(self, user_id: str, act: OpenAct) -> AsyncIterator[HistoryRecord]:
        records = 0
        try:
            async for record in self._history_of(user_id):
                records += 1
                yield record
            act.details["records"] = records
            with suppress(StoreUnavailableError):  # it is stored later
                await self._audit.end(act)
        except BaseException as error:
            self._audit.abandon(act, error.code if isinstance(error, FlowError) else CANCELLED)
            raise

    async def _states_of(self, user_id: str) -> PersonalData:
        now = self._clock.now()
        states, erasures = [], []
        for state_id in await self._ids_of(user_id):
            found = await self._states.load_or_salvage(state_id)
            if not isinstance(found, StoredState):
                continue
            if not found.state.is_gone_at(now):
                states.append(found.state)
            elif (erased := await self._endings.erasure_of(found)) is not None:
                erasures.append(erased)
        if (key := await self._keys.last_destroyed(user_id)) is not None:
            erasures.append(ErasedUser(key.at, key.by))
        return PersonalData(user_id, now, states, [], max(erasures, key=attrgetter("at"), default=None))

    async def _history_of(self, user_id: str) -> AsyncIterator[HistoryRecord]:
        """Iterate over the records of a user, by flow, the oldest first, reading page by page."""
        for state_id in await self._ids_of(user_id):
            found = await self._states.load_or_salvage(state_id)
            waiting = deque(() if found is None else sorted(found.pending, key=position_of))
            async for record in self._reader.scan(state_id):
                while waiting and position_of(waiting[0]) < position_of(record):
                    yield waiting.popleft()
                if waiting and waiting[0].id == record.id:
                    waiting.popleft()
                if isinstance(record, HistoryRecord):
                    yield record
            for undelivered in waiting:
                yield undelivered

    async def erase(self, user_id: str, origin: Origin) -> Erasure:
        """Erase the data of a user as ``_erase`` does, and return the receipt, which the audit log confirms.

        Raises:
            InvalidRequestError: The user id is invalid.
            StateBusyError: A state changed too often meanwhile.
            StoreUnavailableError: Also if the data was erased, but the proof could not be stored. Repeat it.
        """
        require_text(user_id)
        salt = token_hex(SALT_BYTES)
        target = erased_user(salt, user_id)
        by = target if origin.actor == user_id else origin.caller
        async with self._audit.act(ERASURE, target, by) as act:
            done = await self._erase(user_id, origin)
            claims = erasure_claims(done, salt, act.first.act.actor, self._clock.now())
            act.after = claims_hash(claims)
            act.details.update(records=done.erased, states=len(done.receipts), keys=len(done.destroyed_keys))
            entry = await self._audit.end(act)
        return structs.replace(done, receipt=ErasureReceipt(claims, entry.sequence, entry.hash))

    async def _erase(self, user_id: str, origin: Origin) -> Erasure:
        """End all states of a user, remove what was entered from all records, and destroy the data keys.

        The transitions, their times, and the hash chain over them stay. A record of the kind ``erased`` in
        each chain is the receipt. Dead letters of the states are removed, as they
        have payloads. In states of others and their records a pseudonym replaces the id.
        Idempotent: it can be repeated after a failure, also of a process at any point.

        The data key is retired first, so that what begins from now on has another one, and destroyed last, so
        that what the erasure delivers is readable until then (docs/decisions/0025).
        """
        await self._relay.drain(MAX_DRAIN_SECONDS)  # records of refused requests are nowhere else
        for state_id in await self._ids_of(user_id):
            await self._deliver(state_id)  # with the present key
        await self._keys.retire(user_id)
        receipts, erased = [], 0
        for state_id in await self._ids_of(user_id):
            receipt = await self._end(state_id, origin)
            if receipt is not None:
                # Every commit before the receipt is in the history before any is erased: a worker that
                # delivers one of them late finds it there and does not insert it again.
                failed = await self._deliver(state_id)
                # A record that cannot be delivered must not stay in the outbox with its data.
                await self._states.release([record for record in failed if record.id != receipt.id])
                erased += await self._history.erase(state_id, position_of(receipt))
                receipts.append(receipt)
            # Last, as events that are dead from now on are made from erased records.
            await self._letters.delete_of_state(state_id)
            await self._states.drop_damaged(state_id)
            await self._reports.withdraw([state_id.key])
        others = await self._others.erase(user_id, origin)
        now = self._clock.now()
        destroyed = await self._keys.destroy(user_id, now, origin.actor)
        log.info("personal data erased", states=len(receipts), records=erased, keys=len(destroyed))
        return Erasure(
            user_id=user_id,
            receipts=receipts,
            erased=erased,
            at=now,
            by=origin.actor,
            pseudonymised_states=others.states,
            pseudonymised_records=others.records,
            destroyed_keys=tuple(destroyed),
        )

    async def _deliver(self, state_id: StateId) -> list[HistoryRecord]:
        """Deliver what waits in the outbox of a state. Returns what could not be delivered."""
        found = await self._states.load_or_salvage(state_id)
        if found is None:
            return []
        waiting = found.deliverable if isinstance(found, StoredState) else found.pending
        return await self._relay.deliver(waiting) if waiting else []

    async def _ids_of(self, user_id: str) -> list[StateId]:
        """Return the states of a user, by flow, also those of which only the history is there."""
        found = {StateId(flow_id, user_id) for flow_id in await self._definitions.list_flow_ids()}
        for flow_id in {state_id.flow_id for state_id in found}:
            found |= set(await self._history.ids_of_user(flow_id, user_id))
        found |= set(await self._states.ids_of_user(user_id))
        return sorted(found, key=lambda state_id: state_id.key)

    async def _end(self, state_id: StateId, origin: Origin) -> HistoryRecord | None:
        """End a state and return the receipt in its chain; None if nothing of it was ever stored."""
        for _ in range(MAX_ATTEMPTS):
            found = await self._states.load_or_salvage(state_id)
            attempt = CommandContext(origin)
            if isinstance(found, DamagedState):
                await self._recovery.recover(state_id, origin)
                continue
            newest = await self._history.newest(state_id)
            if found is not None:
                is_of_state = newest is not None and newest.id == commit_record_id(found.state)
                if is_of_state and isinstance(newest, HistoryRecord) and is_receipt(newest):
                    return newest  # nothing was entered since the last erasure
                change, now = self._ending(found.state)
                receipt = await self._commits.make(found, change, attempt, now)
            elif newest is None:
                return None
            elif isinstance(newest, HistoryRecord):
                change, now = self._ending(state_after(newest), epoch=later_id(newest.epoch, new_id()))
                receipt = await self._commits.replace(None, newest.hash or "", change, attempt, now)
            else:  # no readable record says what the state was
                await self._recovery.recover(state_id, origin)
                continue
            if receipt is not None:
                return receipt
        raise StateBusyError(state_id.flow_id)

    def _ending(self, last: FlowState, epoch: str | None = None) -> tuple[ProposedChange, datetime]:
        """Return the change that ends ``last``; in an epoch of its own if there is no document."""
        now = max(self._clock.now(), last.updated_at)
        change = ProposedChange.erasing(last, now)
        if epoch is not None:
            change = structs.replace(change, after=structs.replace(change.after, epoch=epoch, revision=0))
        return change, now
