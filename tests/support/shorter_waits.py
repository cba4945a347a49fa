"""Constants with which processes wait less in the short forms of tests."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from app.services.integrations.retry_schedule import DELAYS_SECONDS
from tests.support.constants import Constants
from tests.support.long_form import form


class in_short_form(Mapping[str, Any]):  # noqa: N801 - used as a function
    """The constants in the short form, and none in the long one.

    The form is chosen at the first use: a conftest may be imported before the options are known.
    """

    def __init__(self, what: str, constants: Constants) -> None:
        self._what = what
        self._constants = constants

    @cached_property
    def _chosen(self) -> Constants:
        is_short = form(self._what, short="shorter", long="as in use") == "shorter"
        return self._constants if is_short else {}

    def __getitem__(self, name: str) -> Any:
        return self._chosen[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._chosen)

    def __len__(self) -> int:
        return len(self._chosen)


SETTLING = in_short_form(
    "time until a registration of a service is in effect",
    {
        "app.main.IntegrationPorts(settle_seconds)": 0.3,
        "app.services.integrations.components.IntegrationRegistry(max_age_seconds)": 0.3,
    },
)


RETRIES = in_short_form(
    "delay of the second delivery",
    {"app.services.integrations.retry_schedule.DELAYS_SECONDS": [0.5, *DELAYS_SECONDS[1:]]},
)
SWEEPS = in_short_form(
    "time until a worker does what a dead one left",
    {
        "app.services.jobs.background.SWEEP_EVERY": 0.5,
        "app.services.jobs.outbox_sweep.MIN_AGE": 1.0,
    },
)
