"""Other values of constants in a process of ``server-flow``, so that short forms of tests wait less."""

import json
import os
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import Any

from app.process import workers
from app.services.integrations.retry_schedule import DELAYS_SECONDS
from tests.support.long_form import form

VARIABLE = "FLOW_TEST_CONSTANTS"
Constants = Mapping[str, Any]
"""Values by the name of a constant, or of an argument as in ``module.function(argument)``, as it is used."""


def in_short_form(what: str, constants: Constants) -> Constants:
    """Return the constants in the short form, and none in the long one."""
    return constants if form(what, short="shorter", long="as in use") == "shorter" else {}


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


def with_constants(constants: Constants) -> dict[str, str]:
    """Return the environment of a process with other values."""
    return {VARIABLE: json.dumps(constants)}


def apply_constants() -> None:
    """Set the constants that the environment of this process has, here and in the workers that it starts."""
    constants = json.loads(os.environ.get(VARIABLE, "{}"))
    if constants:
        workers.WORKER_IMPORTS = "tests.support.worker_imports"
    for name, value in constants.items():
        place, _, argument = name.rstrip(")").partition("(")
        module_name, _, member = place.rpartition(".")
        module = import_module(module_name)
        present = getattr(module, member)
        if argument:
            setattr(module, member, partial(present, **{argument: value}))
        else:
            setattr(module, member, timedelta(seconds=value) if isinstance(present, timedelta) else value)
