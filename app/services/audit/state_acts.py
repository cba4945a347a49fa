"""Commands on states that are administrative acts, and their audit entries."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import UNSET

from app.contracts.audit import Details
from app.contracts.commands import Origin
from app.contracts.record import HistoryRecord
from app.contracts.state import StateId
from app.services.audit.log import AuditLog, OpenAct
from app.services.audit.source import current_source

ALWAYS = frozenset({"set", "pause", "resume", "migrate"})
"""Acts of administrators alone, also on a state of their own."""
BY_NAME = {
    "started": "start",
    "set": "set",
    "cleared": "clear",
    "reset": "reset",
    "undone": "undo",
    "paused": "pause",
    "resumed": "resume",
    "migrated": "migrate",
    "recovered": "recover",
    "assigned": "assign",
    "claimed": "claim",
    "released": "release",
    "withdrawn": "withdraw",
}
"""Acts by the names of commands. All other names are those of transitions."""
OF_PARTICIPANTS = frozenset({"start", "transition", "undo", "claim", "release", "withdraw"})
"""Steps of the flow itself, which programs take for the owner of a state as a part of its normal course."""


def is_administrative(act: str, state_id: StateId, origin: Origin) -> bool:
    """Return whether a command is an act of an administrator.

    It is, if the caller passes the checks of roles as an administrator, and the act is for administrators or
    the state is another user's. All that is done by commands of ``server-flow`` is.
    """
    caller = origin.caller
    if origin.dry_run or origin.audited or not caller.is_administrator:
        return False
    if act in ALWAYS or current_source().account is not UNSET:
        return True
    if caller.trusted and act in OF_PARTICIPANTS:
        return False
    return caller.user_id != state_id.user_id


@asynccontextmanager
async def state_act(audit: AuditLog, act: str, state_id: StateId, origin: Origin) -> AsyncIterator[OpenAct]:
    """Record an act on a state, whose change ``note_commit`` adds. Raises StoreUnavailableError."""
    details: Details = {}
    if state_id.instance_id is not None:
        details["entity"] = await audit.pseudonyms.entity(state_id.user_id, state_id.instance_id)
    async with audit.act(
        f"state.{act}", f"state:{state_id.flow_id}", origin.caller, user_id=state_id.user_id, details=details
    ) as opened:
        opened.details["changed"] = False
        yield opened


def note_commit(opened: OpenAct, record: HistoryRecord) -> None:
    """Add the record of the change that an act made: its hash is the one in the history."""
    opened.before = record.previous_hash
    opened.after = record.hash
    opened.details.update(changed=True, epoch=record.epoch, revision=record.revision)
