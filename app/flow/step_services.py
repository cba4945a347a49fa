"""The services that own steps."""

from collections.abc import Iterator

from app.contracts.flow import Flow, FlowStep

TARGET = "-"
"""The service of a step that belongs to the service which the state targets."""


def owner_of(flow: Flow, step: FlowStep, target: str) -> str:
    """Return the alias of the service that owns a step.

    Args:
        flow: The flow of the step.
        step: The step.
        target: The service that the state targets, which owns the steps of the service ``-``.
    """
    named = static_owner(flow, step)
    return target if named == TARGET else named


def static_owner(flow: Flow, step: FlowStep) -> str:
    """Return the service of a step as the flow names it, ``-`` for the one that a state targets.

    A reference (``$name``) that the config of the flow does not have stays as it is.
    """
    if not step.service.startswith("$"):
        return step.service
    return (flow.config.services or {}).get(step.service[1:], step.service)


def owns_a_step(flow: Flow, alias: str) -> bool:
    """Return whether a flow has a step that belongs to a service, whatever its states target."""
    return any(static_owner(flow, step) == alias for step in flow.steps.values())


def services_of(flow: Flow) -> Iterator[str]:
    """Yield the service of each step that names one."""
    for step in flow.steps.values():
        named = static_owner(flow, step)
        if named and named != TARGET:
            yield named
