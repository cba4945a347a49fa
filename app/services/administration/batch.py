"""Batches: many operations in one request, whose loads and commits share database commands."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import structlog
from msgspec import UNSET, Struct, ValidationError, json, structs

from app.contracts.audit import Details
from app.contracts.commands import (
    BatchAction,
    BatchOperation,
    Origin,
    PauseCommand,
    ResetCommand,
    SetCommand,
    TransitionCommand,
)
from app.contracts.errors import Fault, FlowError, InternalError, InvalidRequestError
from app.contracts.ports.states import StateFilter
from app.contracts.positions import ExpectedPosition
from app.contracts.results import BatchOutcome, BatchPage
from app.contracts.state import FlowState
from app.flow.values.removal import pointer_faults
from app.flow.values.struct_errors import faults_of
from app.kit.integers import convert_json
from app.services.administration.states import Administration
from app.services.audit.log import AuditLog
from app.services.states.operations import StateOperations
from config.log import describe

log = structlog.get_logger("bulk")

CONCURRENCY = 250
"""Operations that run at a time."""
MAX_ANSWER_BYTES = 8_388_608
"""Bytes of the payloads in the answer of one batch, as in its request; further payloads are left out."""
_COMMANDS: dict[str, type[Struct]] = {
    "set": SetCommand,
    "transition": TransitionCommand,
    "reset": ResetCommand,
    "pause": PauseCommand,
}


class Bulk:
    """Runs batches."""

    def __init__(self, operations: StateOperations, administration: Administration, audit: AuditLog) -> None:
        self._operations = operations
        self._administration = administration
        self._audit = audit

    async def run(self, operations: Sequence[BatchOperation], origin: Origin) -> list[BatchOutcome]:
        """Run operations and return their outcomes, in the same order. Those on one state run in sequence.

        Raises:
            InvalidRequestError: An operation has faults. All of them are listed, and nothing was changed.
        """
        faults = [
            Fault(f"/operations/{n}{fault.pointer}", fault.message)
            for n, operation in enumerate(operations)
            for fault in faults_of_operation(operation)
        ]
        if origin.dry_run:
            keys = Counter(_state_of(operation) for operation in operations)
            faults += [
                Fault(f"/operations/{n}", "a dry run must have at most one operation for each state")
                for n, operation in enumerate(operations)
                if keys[_state_of(operation)] > 1
            ]
        if faults:
            raise InvalidRequestError(faults)
        if origin.dry_run:
            return await self._run_all(operations, origin)
        kinds = sorted({operation.op for operation in operations})
        details: Details = {"operations": len(operations), "kinds": ",".join(kinds)}
        async with self._audit.act("states.batch", "states", origin.caller, details=details) as act:
            outcomes = await self._run_all(operations, structs.replace(origin, audited=True))
            failed = sum(outcome.error is not None for outcome in outcomes)
            act.details.update(succeeded=len(outcomes) - failed, failed=failed)
        return outcomes

    async def _run_all(self, operations: Sequence[BatchOperation], origin: Origin) -> list[BatchOutcome]:
        outcomes: dict[int, BatchOutcome] = {}
        by_state: dict[tuple[str, str, str | None], list[int]] = {}
        for n, operation in enumerate(operations):
            by_state.setdefault(_state_of(operation), []).append(n)

        groups = iter(by_state.values())
        bytes_left = MAX_ANSWER_BYTES

        async def work() -> None:
            nonlocal bytes_left
            for numbers in groups:  # the operations of one state run in sequence
                for n in numbers:
                    outcome = await self._outcome(operations[n], origin)
                    bytes_left -= _payload_bytes(outcome)
                    outcomes[n] = outcome if bytes_left >= 0 else _without_payload(outcome)

        await asyncio.gather(*(work() for _ in range(min(CONCURRENCY, len(by_state)))))
        return [outcomes[n] for n in range(len(operations))]

    async def run_on_found(
        self, only: StateFilter, action: BatchAction, origin: Origin, *, after: str | None, limit: int
    ) -> BatchPage:
        """Run the same operation on every state that a filter matches, ordered by key.

        A state that changes meanwhile is left as it is, with REVISION_CONFLICT.

        Args:
            only: The filter.
            action: The operation.
            origin: The source of the request.
            after: Only states with keys after this one.
            limit: The largest number of states.
        """
        faults = [Fault(f"/operation{f.pointer}", f.message) for f in faults_of_action(action)]
        if faults:
            raise InvalidRequestError(faults)
        try:
            page = await self._administration.find_states(
                only, after=after, limit=limit, caller=origin.caller
            )
        except InvalidRequestError as refusal:
            faults = [Fault(f"/filter{f.pointer}", f.message) for f in refusal.faults]
            raise InvalidRequestError(faults) from None
        members = structs.asdict(action)
        operations = [
            BatchOperation(
                user_id=state.user_id,
                flow_id=state.flow,
                entity_id=None if state.instance_id is UNSET else state.instance_id,
                expected_epoch=state.epoch,
                expected_revision=state.revision,
                **members,
            )
            for state in page.states
        ]
        return BatchPage(await self.run(operations, origin), page.next)

    async def _outcome(self, operation: BatchOperation, origin: Origin) -> BatchOutcome:
        outcome = BatchOutcome(operation.user_id, operation.flow_id, operation.entity_id or UNSET)
        expected = None
        if operation.expected_revision is not None:
            expected = ExpectedPosition(operation.expected_revision, operation.expected_epoch)
        own = structs.replace(origin, request_id=operation.request_id, expected=expected)
        try:
            return structs.replace(outcome, state=await self._run(operation, own))
        except FlowError as error:
            return structs.replace(outcome, error=error)
        except Exception as error:  # noqa: BLE001 - the other operations have their own outcomes
            log.error("batch operation failed", op=operation.op, **describe(error))
            return structs.replace(outcome, error=InternalError())

    async def _run(self, operation: BatchOperation, origin: Origin) -> FlowState | None:
        operations, administration = self._operations, self._administration
        user_id, flow_id, entity_id = operation.user_id, operation.flow_id, operation.entity_id
        if operation.op == "clear":
            await operations.clear(user_id, flow_id, origin, entity_id=entity_id)
            return None
        if operation.op == "resume":
            return await administration.resume_flow(user_id, flow_id, entity_id=entity_id, origin=origin)
        if operation.op == "pause":
            pause = convert_json(operation.body, PauseCommand)
            return await administration.pause_flow(
                user_id, flow_id, pause, entity_id=entity_id, origin=origin
            )
        if operation.op == "reset":
            reset = convert_json(operation.body, ResetCommand)
            return await operations.reset(user_id, flow_id, reset, origin, entity_id=entity_id)
        if operation.op == "set":
            wanted = structs.replace(convert_json(operation.body, SetCommand), flow=flow_id)
            return await operations.set(user_id, wanted, origin, entity_id=entity_id)
        moved = convert_json(operation.body, TransitionCommand)
        return await operations.transition(
            user_id,
            flow_id,
            operation.transition or "",
            moved.payload,
            origin,
            ok=moved.ok,
            message=moved.message,
            remove=moved.remove,
            entity_id=entity_id,
        )


def _state_of(operation: BatchOperation) -> tuple[str, str, str | None]:
    """Return the names of a state: not a StateId, as the flow of one operation may be malformed."""
    return operation.flow_id, operation.user_id, operation.entity_id


def _payload_bytes(outcome: BatchOutcome) -> int:
    if outcome.state is None or outcome.state.payload is UNSET:
        return 0
    return len(json.encode(outcome.state.payload))


def _without_payload(outcome: BatchOutcome) -> BatchOutcome:
    if outcome.state is None or outcome.state.payload is UNSET:
        return outcome
    state = structs.replace(outcome.state, payload=UNSET)
    return structs.replace(outcome, state=state, payload_omitted=True)


def faults_of_operation(operation: BatchOperation) -> list[Fault]:
    """Return everything wrong with an operation on one state."""
    faults = faults_of_action(operation)
    if operation.expected_epoch is not None and operation.expected_revision is None:
        faults.append(Fault("/expectedEpoch", "requires an expectedRevision"))
    if operation.op == "set" and operation.body.get("flow", operation.flow_id) != operation.flow_id:
        faults.append(Fault("/body/flow", f"must be {operation.flow_id!r}, the flow of the operation"))
    return faults


def faults_of_action(action: BatchAction) -> list[Fault]:
    """Return everything wrong with an operation, including its body."""
    faults = []
    if action.op == "transition" and not action.transition:
        faults.append(Fault("/transition", "is required: name the transition to run"))
    if action.op != "transition" and action.transition is not None:
        faults.append(Fault("/transition", f"must be left out: {action.op} runs no transition"))
    shape = _COMMANDS.get(action.op)
    if shape is None:
        if action.body:
            faults.append(Fault("/body", f"must be left out: {action.op} has no body"))
        return faults
    try:
        command = convert_json(action.body, shape)
    except (ValidationError, RecursionError):
        faults += [Fault(f"/body{f.pointer}", f.message) for f in faults_of(action.body, shape)]
    else:
        if isinstance(command, TransitionCommand | SetCommand) and command.remove is not UNSET:
            faults += pointer_faults(command.remove, "/body/remove")
    return faults
