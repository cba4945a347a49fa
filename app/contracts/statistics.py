"""Statistics about flows, with the names of the reference."""

from msgspec import UNSET, Struct, UnsetType

from app.contracts.integration import BreakerState
from app.contracts.wire.integrations import HeartbeatView


class StepCount(Struct, frozen=True, rename="camel"):
    """The number of times a step was entered, by all users."""

    flow: str
    step: str
    count: int


class PerformanceMetrics(Struct, frozen=True, rename="camel"):
    """Response times in milliseconds, over the recorded changes and refusals of the last hour.

    ``throughput_per_second`` is over the last minute.
    """

    average_response_time: float
    p95_response_time: float
    throughput_per_second: float


class ServiceStatistics(Struct, frozen=True, rename="camel"):
    """A registered service.

    ``delivered`` counts the deliveries to it that succeeded since its registration, ``failed`` the attempts
    that it failed or refused, ``internal`` those that failed on the side of server-flow. ``heartbeat`` is its
    last report about itself, absent if there was none.
    """

    alias: str
    enabled: bool
    breaker: BreakerState
    delivered: int
    failed: int
    internal: int
    heartbeat: HeartbeatView | UnsetType = UNSET


class FlowStatistics(Struct, frozen=True, rename="camel"):
    """Statistics over all flows.

    ``total_flows`` counts the states of all users, ``active_users`` the users with a state that is not
    completed. ``completion_rate`` is the percentage of completed states (0 to 100), ``average_flow_duration``
    the milliseconds from start to completion, ``error_rate`` the fraction of refused attempts (0 to 1).
    ``corrupted_states`` counts the states that the background check found inconsistent with their history or
    definition, until they are recovered. ``services`` are the registered services, by alias.
    """

    total_flows: int
    active_users: int
    completion_rate: float
    average_flow_duration: float
    popular_steps: list[StepCount]
    error_rate: float
    corrupted_states: int
    performance_metrics: PerformanceMetrics
    services: tuple[ServiceStatistics, ...] = ()
