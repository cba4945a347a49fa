"""Checks of the services that own steps, where registered ones are known."""

from collections.abc import Collection, Iterator
from typing import Any

from app.contracts.definition import Finding
from app.flow.lint.common import as_object, objects
from app.flow.lint.findings import warning
from app.flow.lint.spelling import quoted
from app.flow.step_services import TARGET
from app.flow.values.struct_errors import escape


def service_findings(raw: dict[str, Any], registered: Collection[str]) -> Iterator[Finding]:
    """Yield warnings about services that nobody has registered: nobody acts at their steps.

    Without any registered service there are none: those steps belong to programs of another kind.
    """
    if not registered:
        return
    table = as_object(as_object(raw.get("config")).get("services"))
    for name, step in objects(raw.get("steps")):
        at, service = f"/steps/{escape(name)}/service", step.get("service")
        if isinstance(service, str) and service.startswith("$"):
            at, service = f"/config/services/{escape(service[1:])}", table.get(service[1:])
        if isinstance(service, str) and service not in ("", TARGET) and service not in registered:
            yield warning(
                at,
                f"No service is registered as {quoted(service)}",
                "register it with PUT /api/admin/services/{alias}, or correct the name",
            )
