"""The services that own steps."""

from app.contracts.flow import Flow, FlowStep
from app.contracts.state import FlowState

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


def serves(flow: Flow, alias: str, target: str) -> bool:
    """Return whether a service owns a step of the flow, for states that target ``target``."""
    return any(owner_of(flow, step, target) == alias for step in flow.steps.values())


def is_targeted(flow: Flow) -> bool:
    """Return whether a flow has a step that belongs to whichever service a state targets."""
    return any(static_owner(flow, step) == TARGET for step in flow.steps.values())


def owns_current_step(flow: Flow, state: FlowState, alias: str) -> bool:
    """Return whether a service owns the step at which a state is."""
    step = flow.steps.get(state.step)
    return step is not None and owner_of(flow, step, state.service) == alias
