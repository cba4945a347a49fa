"""The indexes and TTLs of the collections. The documents declare them to Beanie, which creates them.

They are separate from the documents, so that a start on a database that has all indexes need not load Beanie.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel

Indexes = Mapping[str, Sequence[IndexModel]]

EXPIRY_GRACE_SECONDS = 3600
"""The service ends expired states, with a record; MongoDB's own TTL is the backstop."""

RESERVATION_SECONDS = 25 * 3600
"""A little longer than repeated requests are recognised (IDEMPOTENCY_WINDOW)."""
DAMAGED_RETENTION_SECONDS = 30 * 24 * 3600
API_KEY_RETENTION_SECONDS = 90 * 24 * 3600
RETIRED_INDEXES = {"flow_states": ("undelivered", "expiry")}
"""Indexes of older versions, by collection; they are dropped at the start."""

INDEXES: Indexes = {
    "flow_definitions": (
        IndexModel([("flowId", ASCENDING), ("version", DESCENDING)], name="flow_version", unique=True),
        IndexModel([("createdAt", ASCENDING)], name="created"),
    ),
    "flow_history": (
        IndexModel(
            [("stateId", ASCENDING), ("epoch", ASCENDING), ("revision", ASCENDING), ("_id", ASCENDING)],
            name="state_position",
        ),
        IndexModel([("timestamp", ASCENDING)], name="time"),
        IndexModel(
            [("stateId", ASCENDING), ("requestId", ASCENDING)],
            name="request",
            partialFilterExpression={"requestId": {"$exists": True}},
        ),
        IndexModel([("named", ASCENDING)], name="named", sparse=True),
    ),
    # Sparse, as each entry costs every commit, also one of a field that is not there; not partial, as
    # the embedded server does not use partial ones for ranges.
    "flow_states": (
        IndexModel([("userId", ASCENDING), ("flowId", ASCENDING)], name="user_flow"),
        IndexModel([("createdAt", ASCENDING)], name="created"),
        IndexModel(
            [("expiresAt", ASCENDING)], name="expires", expireAfterSeconds=EXPIRY_GRACE_SECONDS, sparse=True
        ),
        IndexModel([("outbox.timestamp", ASCENDING)], name="waiting", sparse=True),
        IndexModel([("timeoutAt", ASCENDING)], name="timeout", sparse=True),
        IndexModel([("people.userId", ASCENDING)], name="people", sparse=True),
        IndexModel([("listed", ASCENDING)], name="listed", sparse=True),
        IndexModel([("waitsFor", ASCENDING)], name="waits", sparse=True),
        IndexModel([("terms", ASCENDING)], name="terms", sparse=True),
    ),
    "flow_states_damaged": (
        IndexModel([("state", ASCENDING)], name="state"),
        IndexModel([("foundAt", ASCENDING)], name="age", expireAfterSeconds=DAMAGED_RETENTION_SECONDS),
    ),
    "flow_corruptions": (),
    "flow_leases": (),
    "flow_secrets": (),
    # No end of life: entries are permanent.
    "flow_audit": (
        IndexModel([("sequence", ASCENDING)], name="sequence", unique=True),
        *(
            IndexModel([(member, ASCENDING), ("sequence", ASCENDING)], name=member)
            for member in ("action", "target", "actor", "subject")
        ),
    ),
    "flow_integrations": (),
    "flow_integration_health": (),
    # ``endsAt`` is the revocation or the expiry: keys are retained for a while after it, for inquiries.
    "flow_api_keys": (
        IndexModel([("alias", ASCENDING)], name="alias"),
        IndexModel(
            [("endsAt", ASCENDING)], name="age", expireAfterSeconds=API_KEY_RETENTION_SECONDS, sparse=True
        ),
    ),
    "flow_reservations": (
        IndexModel([("reservedAt", ASCENDING)], name="age", expireAfterSeconds=RESERVATION_SECONDS),
    ),
    # Sparse: an idle lane costs nothing in the lists. No TTLs by default: see models.integrations.log.
    "flow_delivery_lanes": (
        IndexModel([("due", ASCENDING)], name="due", sparse=True),
        IndexModel([("waits", ASCENDING)], name="waits", sparse=True),
        IndexModel([("failing", ASCENDING)], name="failing", sparse=True),
        IndexModel([("stateKey", ASCENDING)], name="state"),
    ),
    "flow_delivery_log": (
        IndexModel([("eventId", ASCENDING)], name="event", sparse=True),
        IndexModel([("stateKey", ASCENDING)], name="state", sparse=True),
        IndexModel([("first", ASCENDING)], name="first", sparse=True),
    ),
    "flow_dead_letters": (
        IndexModel([("place", ASCENDING)], name="place"),
        IndexModel([("died", ASCENDING)], name="died"),
        IndexModel([("eventId", ASCENDING)], name="event"),
        IndexModel([("stateKey", ASCENDING)], name="state"),
    ),
    "flow_data_keys": (IndexModel([("wrappedBy", ASCENDING)], name="wrapping", sparse=True),),
}

RETAINED_COLLECTIONS = ("flow_history", "flow_delivery_lanes")

RETENTION_INDEX = IndexModel([("expiresAt", ASCENDING)], name="retention", expireAfterSeconds=0)
"""The TTL of ``RETAINED_COLLECTIONS``, made only where records have an end (FLOW_HISTORY_RETENTION): it costs
an entry for each record, and the embedded server reads a whole collection each minute if it has a TTL."""

EMBEDDED_INDEXES: Indexes = {
    "flow_states": (
        IndexModel([("_id", ASCENDING), ("epoch", ASCENDING), ("revision", ASCENDING)], name="position"),
    ),
    "flow_history": (IndexModel([("stateId", ASCENDING), ("requestId", ASCENDING)], name="state_request"),),
    "flow_delivery_lanes": (IndexModel([("_id", ASCENDING), ("stateKey", ASCENDING)], name="key"),),
    "flow_data_keys": (IndexModel([("_id", ASCENDING), ("revision", ASCENDING)], name="revision"),),
}
"""Indexes that the embedded server alone needs: its planner uses an index only if the conditions of a
filter are exactly its fields, and no partial index at all (docs/decisions/0020)."""


def has_indexes(found: Mapping[str, Any], declared: Sequence[IndexModel]) -> bool:
    """True if a collection has all declared indexes, as declared.

    Args:
        found: The result of ``index_information``.
        declared: What the collection should have.
    """
    return all(_shape(found.get(each.document["name"], {})) == _shape(each.document) for each in declared)


def _shape(index: Mapping[str, Any]) -> tuple[object, ...]:
    """The fields and the options of an index; False and absent are the same."""
    key = index.get("key", {})
    fields = list(key.items() if isinstance(key, Mapping) else key)
    partial = index.get("partialFilterExpression")
    return (
        [(name, direction) for name, direction in fields],
        bool(index.get("unique")),
        bool(index.get("sparse")),
        index.get("expireAfterSeconds"),
        dict(partial) if partial is not None else None,
    )
