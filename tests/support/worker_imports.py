"""Imports of the process that workers are forked from, with the constants that a test gave to ``serve``."""

import app.process.worker_imports  # noqa: F401 - in place of which ``serve`` has this module
from tests.support.constants import apply_constants

apply_constants()
