"""The limits of clients, as the interfaces use them."""

from app.contracts.ports.rate_limits import RateCounters
from app.services.rates.connection_limits import ConnectionLimits
from app.services.rates.request_limits import RequestLimits, RequestRates
from app.services.rates.shared_budgets import SharedBudgets


class ClientLimits:
    """The limits of requests, shared by all workers, and of the connections to this one."""

    def __init__(
        self, counters: RateCounters, rates: RequestRates, *, user_connections: int, address_connections: int
    ) -> None:
        budgets = SharedBudgets(counters)
        self.run = budgets.run
        self.requests = RequestLimits(budgets, rates)
        self.connections = ConnectionLimits(user_connections, address_connections)
