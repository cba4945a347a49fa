"""Identifiers of users, flows and other named things."""

import re
from collections.abc import Mapping

from app.contracts.errors import Fault, FlowNotFoundError, InvalidRequestError

ID_RULE = (
    "must be 1 to 256 characters without control characters, and no pseudonym of an erased person "
    "(person: and 32 hexadecimal digits)"
)
_TEXT = re.compile(r"[^\ud800-\udfff]*\Z")
_ID = re.compile(r"(?!person:[0-9a-f]{32}\Z)[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}\Z")


def is_id(value: object) -> bool:
    """Return whether ``value`` is an identifier: 1 to 256 characters without control characters.

    The form of a pseudonym (app.contracts.people) is refused: a user of that id would have the roles of a
    person who was erased, and act under that person's name.
    """
    return isinstance(value, str) and _ID.match(value) is not None


def require_ids(ids: Mapping[str, object]) -> None:
    """Require identifiers.

    Python programs may pass values of any type, also ones that a database would evaluate as a query.

    Args:
        ids: The values by the names of their members.

    Raises:
        InvalidRequestError: A value is no identifier; every such member is listed.
    """
    faults = [Fault(f"/{name}", ID_RULE) for name, value in ids.items() if not is_id(value)]
    if faults:
        raise InvalidRequestError(faults)


def require_text(user_id: object) -> None:
    """Require a user id that is text.

    It need not be an identifier, so that data of users from before that rule can be exported and erased.

    Raises:
        InvalidRequestError: It is no text.
    """
    if not isinstance(user_id, str) or not _TEXT.match(user_id):
        require_ids({"userId": user_id})


def require_state(user_id: object, flow_id: object, entity_id: object = None) -> None:
    """Require the identifiers of a state; ``entity_id`` is None if it is not named.

    Raises:
        InvalidRequestError: The user id or the entity is no identifier, or the flow id is no text.
        FlowNotFoundError: ``flow_id`` is text that cannot be a slug.
    """
    if is_id(user_id) and is_id(flow_id) and (entity_id is None or is_id(entity_id)):
        return
    ids = {"userId": user_id}
    if not isinstance(flow_id, str):
        ids["flowId"] = flow_id
    if entity_id is not None:
        ids["entityId"] = entity_id
    require_ids(ids)
    require_flow(flow_id)


def require_flow(flow_id: object) -> None:
    """Require the identifier of a flow.

    Raises:
        InvalidRequestError: It is no text.
        FlowNotFoundError: It is text that cannot be a slug.
    """
    if is_id(flow_id):
        return
    if isinstance(flow_id, str):
        raise FlowNotFoundError(flow_id.encode(errors="replace").decode())
    require_ids({"flowId": flow_id})
