"""The table of limits has every setting of limits, and says of each the value that the code has."""

import importlib
import re
from typing import Any

import pytest

from config.limits import LimitSettings
from tests.support.documentation import page

UNITS = {"KiB": 1024, "MiB": 1024**2}
LIMITS = re.compile(r"^\| [^|]+ \| ([^|]*) \| `([^`|]+)` \|", re.MULTILINE)
ROWS = {name: value for value, name in LIMITS.findall(page("docs/reference/limits.md"))}
NO_LIMITS = {"trusted_proxies"}
"""Settings of the group that are no limits."""
WHOLE_MODULES = ("realtime.gateway.limits",)
"""Modules of which every constant is a limit of clients."""
FACTORS = {"SERVICE_RATE_FACTOR"}
"""Constants that another row names."""


def value_of(name: str) -> Any:
    """Return the value of a setting or of a constant."""
    if name.startswith("FLOW_"):
        return LimitSettings.model_fields[name.removeprefix("FLOW_").lower()].default
    path, _, constant = name.rpartition(".")
    module = path if path.startswith("realtime.") else f"app.{path}"
    return getattr(importlib.import_module(module), constant)


@pytest.mark.parametrize("name", ROWS)
def test_the_value_in_the_table_is_that_of_the_code(name: str) -> None:
    number = re.match(r"([\d,]+)(?: (KiB|MiB))?", ROWS[name])
    assert number is not None, ROWS[name]
    assert int(number[1].replace(",", "")) * UNITS.get(number[2], 1) == value_of(name)


def test_every_limit_of_the_settings_is_in_the_table() -> None:
    settings = {f"FLOW_{name.upper()}" for name in LimitSettings.model_fields.keys() - NO_LIMITS}
    assert {name for name in ROWS if name.startswith("FLOW_")} == settings


def test_every_constant_that_bounds_a_socket_is_in_the_table() -> None:
    for path in WHOLE_MODULES:
        constants = {name for name in vars(importlib.import_module(path)) if name.isupper()} - FACTORS
        assert {f"{path}.{name}" for name in constants} <= ROWS.keys()
