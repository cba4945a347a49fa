"""Other values of constants in a process of ``server-flow``, so that short forms of tests wait less."""

import json
import os
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

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


def with_constants(constants: Constants) -> dict[str, str]:
    """Return the environment of a process with other values.

    They are not in effect in the workers of ``serve --workers 2``, which are not forked from it.
    """
    return {VARIABLE: json.dumps(constants)}


def apply_constants() -> None:
    """Set the constants that the environment of this process has."""
    for name, value in json.loads(os.environ.pop(VARIABLE, "{}")).items():
        place, _, argument = name.rstrip(")").partition("(")
        module_name, _, member = place.rpartition(".")
        module = import_module(module_name)
        present = getattr(module, member)
        setattr(module, member, partial(present, **{argument: value}) if argument else value)
