"""Identifiers of users, flows, and whatever else is looked for by its name."""

import re
from collections.abc import Mapping

from app.contracts.errors import Fault, FlowNotFoundError, InvalidRequestError

RULE = "takes 1 to 256 characters, no control characters"
_TEXT = re.compile(r"[^\ud800-\udfff]*\Z")
_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}\Z")


def is_id(value: object) -> bool:
    """True if ``value`` can name something: 1 to 256 characters, no control characters."""
    return isinstance(value, str) and _ID.match(value) is not None


def require_ids(ids: Mapping[str, object]) -> None:
    """Raise InvalidRequestError with every fault, by the names of the members, unless all can name something.
    What a Python program gives may be anything, also what a database would take for a question."""
    faults = [Fault(f"/{name}", RULE) for name, value in ids.items() if not is_id(value)]
    if faults:
        raise InvalidRequestError(faults)


def require_text(user_id: object) -> None:
    """Raise InvalidRequestError for what is no text: what is kept of users from before there was a rule can
    be looked at and erased."""
    if not isinstance(user_id, str) or not _TEXT.match(user_id):
        require_ids({"userId": user_id})


def require_state(user_id: object, flow_id: object) -> None:
    """Raise InvalidRequestError with every fault unless they can name a user and a flow, FlowNotFoundError
    for a text that no flow is called."""
    if is_id(user_id) and is_id(flow_id):
        return
    if not isinstance(flow_id, str):
        require_ids({"userId": user_id, "flowId": flow_id})
    require_ids({"userId": user_id})
    require_flow(flow_id)


def require_flow(flow_id: object) -> None:
    """Raise InvalidRequestError for what is no text, FlowNotFoundError for a text that no flow is called."""
    if is_id(flow_id):
        return
    if isinstance(flow_id, str):
        raise FlowNotFoundError(flow_id.encode(errors="replace").decode())
    require_ids({"flowId": flow_id})
