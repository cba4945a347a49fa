"""Figures about flows, as the reference names them."""

from msgspec import Struct


class StepCount(Struct, frozen=True, rename="camel"):
    """How often a step was entered, over all flows and users."""

    flow: str
    step: str
    count: int


class PerformanceMetrics(Struct, frozen=True, rename="camel"):
    """Times in milliseconds, over the recorded changes and refusals of the last hour;
    ``throughput_per_second`` over the last minute."""

    average_response_time: float
    p95_response_time: float
    throughput_per_second: float


class FlowStatistics(Struct, frozen=True, rename="camel"):
    """``total_flows`` counts the states of all users, ``active_users`` the users with one that is
    not completed, ``completion_rate`` is the share of completed states in percent (0 to 100),
    ``average_flow_duration`` the milliseconds from start to completion, ``error_rate`` the share
    of refused attempts among all (0 to 1). ``corrupted_states`` counts the states that the background
    check found not to agree with their history or definition, until they are recovered."""

    total_flows: int
    active_users: int
    completion_rate: float
    average_flow_duration: float
    popular_steps: list[StepCount]
    error_rate: float
    corrupted_states: int
    performance_metrics: PerformanceMetrics
