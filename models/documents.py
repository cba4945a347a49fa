"""The documents: the one place where collections are declared, with the indexes of ``models.indexes``.

Definitions and the indexes go through Beanie; the hot path reads and writes the same shapes
straight on the collections (``models.states.store``, ``models.history_store``).
"""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import Field

from models.indexes import INDEXES
from models.stored_definition import CamelModel, StoredDefinition


class FlowDefinitionDocument(Document, StoredDefinition):
    """Where definitions are kept."""

    id: str = Field(alias="_id")  # type: ignore[assignment]

    class Settings:
        name = "flow_definitions"
        indexes: ClassVar = [*INDEXES["flow_definitions"]]


class FlowHistoryDocument(Document, CamelModel):
    """A record of one change or refusal; ``_id`` is ``<state>:<epoch>:<revision>``, for refusals
    with an id of their own behind it. The same shape waits in a state's ``outbox``."""

    id: str = Field(alias="_id")  # type: ignore[assignment]
    commit_id: str
    state_id: str
    flow_id: str
    user_id: str
    epoch: str
    revision: int
    version: int
    kind: str
    transition: str
    from_step: str
    to_step: str
    timestamp: datetime
    success: bool
    service: str
    actor: str
    payload: str | None = None
    after: dict[str, Any] | None = None
    payload_revision: int | None = None
    error: str | None = None
    request_id: str | None = None
    digest: str | None = None
    client: str | None = None
    duration_ms: float | None = None
    previous_hash: str | None = None
    commitment: str | None = None
    salt: str | None = None
    hash_version: int | None = None
    hash: str | None = None
    expires_at: datetime | None = None

    class Settings:
        name = "flow_history"
        indexes: ClassVar = [*INDEXES["flow_history"]]


class FlowStateDocument(Document, CamelModel):
    """One user's state in one flow; ``_id`` is ``<flow>:<user>``. The commit point: its fields and
    the record in its ``outbox`` change together or not at all; ``head`` is the hash of the last record. A
    state that ended stays, absent for readers: its history goes on from there. It goes when its history
    may go (FLOW_HISTORY_RETENTION)."""

    id: str = Field(alias="_id")  # type: ignore[assignment]
    flow_id: str
    user_id: str
    version: int
    epoch: str
    revision: int
    status: str
    step: str
    service: str
    ok: bool
    created_at: datetime
    updated_at: datetime
    previous: str | None = None
    undo_roles: list[str] | None = None
    entity_id: str | None = None
    payload: str | None = None
    message: str | None = None
    expires_at: datetime | None = None
    pause_reason: str | None = None
    timeout_at: datetime | None = None
    timeout_left_ms: int | None = None
    expiry_left_ms: int | None = None
    head: str | None = None
    payload_revision: int | None = None
    payload_since: datetime | None = None
    outbox: list[dict[str, Any]] = Field(default_factory=list)
    recent: list[dict[str, Any]] = Field(default_factory=list)

    class Settings:
        name = "flow_states"
        indexes: ClassVar = [*INDEXES["flow_states"]]


class DamagedStateDocument(Document, CamelModel):
    """A state document that could not be read, as it was found before it was recovered."""

    id: PydanticObjectId | None = Field(default=None, alias="_id")
    state: str
    found_at: datetime
    document: dict[str, Any]

    class Settings:
        name = "flow_states_damaged"
        indexes: ClassVar = [*INDEXES["flow_states_damaged"]]


class CorruptionDocument(Document, CamelModel):
    """A state that does not agree with its history or its definition; ``_id`` is ``<flow>:<user>``."""

    id: str = Field(alias="_id")  # type: ignore[assignment]
    reason: str
    found_at: datetime

    class Settings:
        name = "flow_corruptions"


class LeaseDocument(Document, CamelModel):
    """The holder of a job that only one worker should do, until when; ``_id`` is the work. ``fence`` counts
    the holders."""

    id: str = Field(alias="_id")  # type: ignore[assignment]
    holder: str
    fence: int
    until: datetime

    class Settings:
        name = "flow_leases"


class SecretDocument(Document, CamelModel):
    """A secret that all workers share, in base64; ``_id`` says for what. Made once; removed by hand, a new
    one is made at the next start of all workers."""

    id: str = Field(alias="_id")  # type: ignore[assignment]
    value: str
    created_at: datetime

    class Settings:
        name = "flow_secrets"


DOCUMENTS: list[type[Document]] = [
    FlowDefinitionDocument,
    FlowStateDocument,
    FlowHistoryDocument,
    DamagedStateDocument,
    CorruptionDocument,
    LeaseDocument,
    SecretDocument,
]
