"""Other values of constants in a process of ``server-flow``, so that short forms of tests wait less."""

import json
import os
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import Any

from app.process import workers

VARIABLE = "FLOW_TEST_CONSTANTS"
Constants = Mapping[str, Any]
"""Values by the name of a constant, or of an argument as in ``module.function(argument)``, as it is used."""


def with_constants(constants: Constants) -> dict[str, str]:
    """Return the environment of a process with other values."""
    return {VARIABLE: json.dumps(dict(constants))}


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
