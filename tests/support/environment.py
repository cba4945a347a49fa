"""The variables of the environment that say on which servers the tests run."""

import os

from app.process.database_server import SERVER_VARIABLE

MONGO_URL = os.environ.get("FLOW_TEST_MONGO_URL")
REDIS_URL = os.environ.get("FLOW_TEST_REDIS_URL")


def is_of_tests(variable: str) -> bool:
    """Return whether a ``FLOW_`` variable says on which servers the tests run."""
    return variable.startswith("FLOW_TEST_") or variable == SERVER_VARIABLE
