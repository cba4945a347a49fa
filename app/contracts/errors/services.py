"""Errors of registered services."""

from app.contracts.errors.base import MAX_NAME, FlowError, cut


class ServiceNotFoundError(FlowError):
    """No service is registered by this alias."""

    code = "SERVICE_NOT_FOUND"
    status = 404
    title = "Service not found"

    def __init__(self, alias: str) -> None:
        alias = cut(alias, MAX_NAME)  # from a URL it may be any text
        super().__init__(f"No service is registered as {alias}; register it first", service=alias)


class ServiceConflictError(FlowError):
    """The registration is at another revision than the caller expects, or it changed meanwhile."""

    code = "SERVICE_CONFLICT"
    status = 412
    title = "Service conflict"
    retryable = True

    def __init__(self, alias: str, revision: int | None) -> None:
        present = "is not registered" if revision is None else f"is at revision {revision} now"
        super().__init__(
            f"Service {alias} {present}; read the registration and try again",
            service=alias,
            revision=revision,
        )


class WebhookMissingError(FlowError):
    """The service has no webhook to which an event could be sent."""

    code = "WEBHOOK_MISSING"
    status = 409
    title = "Webhook missing"

    def __init__(self, alias: str) -> None:
        super().__init__(f"Service {alias} has no webhook; set its url first", service=alias)


class ApiKeyNotFoundError(FlowError):
    """The service has no valid API key with this id."""

    code = "API_KEY_NOT_FOUND"
    status = 404
    title = "API key not found"

    def __init__(self, alias: str) -> None:
        super().__init__(
            f"Service {cut(alias, MAX_NAME)} has no API key with this id that is not revoked yet"
        )


class DeliveryNotFoundError(FlowError):
    """The service has no such delivery or dead letter, or it was removed."""

    code = "DELIVERY_NOT_FOUND"
    status = 404
    title = "Delivery not found"

    def __init__(self, event_id: str) -> None:
        event_id = cut(event_id, MAX_NAME)  # from a URL it may be any text
        super().__init__(
            f"Delivery {event_id} not found; list the dead letters or the events", eventId=event_id
        )
