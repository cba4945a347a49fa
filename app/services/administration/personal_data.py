"""Export and erasure of the stored data of one user."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
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
from app.contracts.results import Erasure, PersonalData
from app.contracts.state import FlowState, StateId
from app.flow import rules
from app.flow.history_chain import is_receipt
from app.kit.ids import later_id, new_id
from app.services.administration.erasure_receipts import ERASURE, claims_hash, erasure_claims
from app.services.administration.pseudonymisation import Pseudonymisation
from app.services.audit.log import CANCELLED, AuditLog, OpenAct
from app.services.audit.pseudonyms import erased_user
from app.services.delivery.relay import Relay
from app.services.states.committer import CommandContext, Committer
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
        states = []
        for state_id in await self._ids_of(user_id):
            found = await self._states.load_or_salvage(state_id)
            if isinstance(found, StoredState) and not found.state.is_gone_at(now):
                states.append(found.state)
        return PersonalData(user_id, now, states, [])

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
        """End all states of a user, and remove payloads and other input from all records.

        The transitions, their times, and the hash chain over them stay. A record of the kind ``erased`` in
        each chain is the receipt. Dead letters of the states are removed, as they
        have payloads. In states of others and their records a pseudonym replaces the id.
        Idempotent: it can be repeated after a failure.
        """
        await self._relay.drain(MAX_DRAIN_SECONDS)  # records of refused requests are nowhere else
        receipts, erased = [], 0
        for state_id in await self._ids_of(user_id):
            receipt = await self._end(state_id, origin)
            if receipt is not None:
                # Every commit before the receipt is in the history before any is erased: a worker that
                # delivers one of them late finds it there and does not insert it again.
                found = await self._states.load_or_salvage(state_id)
                if found is not None:
                    waiting = found.deliverable if isinstance(found, StoredState) else found.pending
                    # A record that cannot be delivered must not stay in the outbox with its data.
                    failed = await self._relay.deliver(waiting)
                    await self._states.release([record for record in failed if record.id != receipt.id])
                erased += await self._history.erase(state_id, position_of(receipt))
                receipts.append(receipt)
            # Last, as events that are dead from now on are made from erased records.
            await self._letters.delete_of_state(state_id)
            await self._states.drop_damaged(state_id)
            await self._reports.withdraw([state_id.key])
        log.info("personal data erased", states=len(receipts), records=erased)
        others = await self._others.erase(user_id, origin)
        return Erasure(user_id, receipts, erased, others.states, others.records)

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
        ended = rules.end(last, "cleared", now)
        if epoch is not None:
            ended = structs.replace(ended, epoch=epoch, revision=0)
        return ProposedChange("erased", "erased", ended), now
