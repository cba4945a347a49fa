"""The limits of requests and of changes, by who requests them and from where."""

from msgspec import Struct

from app.contracts.callers import Caller
from app.contracts.commands import Origin
from app.contracts.ports.rate_limits import RateKey
from app.kit.client_address import counted_network
from app.services.rates.shared_budgets import SharedBudgets

SERVICE_FACTOR = 20
"""Services and administrators may change and connect so many times as much, as they act for many users."""

_USER = "This user sends too many requests"
_SERVICE = "This service sends too many requests"
_ADDRESS = "Too many requests come from this address"
_FAILURE = "Too many requests from this address had no valid token"
_CHANGE = "This user requests changes too often"


class RequestRates(Struct, frozen=True):
    """Requests in a minute; ``failures`` are failed authentications of an address."""

    user: int = 6_000
    service: int = 120_000
    address: int = 60_000
    failures: int = 300
    changes: int = 1_200


class RequestLimits:
    """Decides whether a request is one too many. Each method raises RateLimitedError if so.

    An address is counted before its token is verified, a caller afterwards. Addresses of this machine are not
    counted, as they are those of a proxy; trust it (FLOW_TRUSTED_PROXIES), and those of its clients are.
    """

    def __init__(self, budgets: SharedBudgets, rates: RequestRates) -> None:
        self._budgets = budgets
        self._rates = rates

    def admit_address(self, address: str) -> None:
        """Count a request from an address."""
        network = counted_network(address)
        if network is not None:
            self._budgets.require(RateKey("address", network, self._rates.address), _ADDRESS)

    def require_few_failures(self, address: str) -> None:
        """Refuse an address from which too many requests without a valid token came lately."""
        network = counted_network(address)
        if network is not None:
            key = RateKey("failure", network, self._rates.failures)
            self._budgets.check(key, _FAILURE)

    def count_failure(self, address: str) -> None:
        """Count a failed authentication."""
        network = counted_network(address)
        if network is not None:
            self._budgets.take(RateKey("failure", network, self._rates.failures))

    def admit_caller(self, caller: Caller) -> None:
        """Count a request of an authenticated caller."""
        if caller.acts_for_all:
            self._budgets.require(RateKey("service", caller.user_id, self._rates.service), _SERVICE)
        else:
            self._budgets.require(RateKey("user", caller.user_id, self._rates.user), _USER)

    def admit_change(self, origin: Origin) -> None:
        """Count a request to change a state, also one that is refused later, as that leaves a record too.

        Trusted callers in this process are not limited.
        """
        caller = origin.caller
        if caller.trusted:
            return
        per_minute = self._rates.changes * (SERVICE_FACTOR if caller.acts_for_all else 1)
        self._budgets.require(RateKey("change", caller.user_id, per_minute), _CHANGE)
