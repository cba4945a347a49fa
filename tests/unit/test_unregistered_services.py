"""Warnings about steps of services that nobody has registered."""

from collections.abc import Collection
from typing import Any

import pytest

from app.contracts.callers import ADMIN, Caller, trusted_caller
from app.contracts.definition import Finding
from app.contracts.integration_commands import RegistrationCommand
from app.flow.lint.services import service_findings
from tests.support.rig import rig
from tests.support.samples import flow_dict

ROOT = Caller("root", scopes=frozenset({ADMIN}))


def flow_of(*services: Any, config: Any = None) -> dict[str, Any]:
    steps = {f"s{n}": {"service": service} for n, service in enumerate(services)}
    return {"steps": steps, "config": config}


CASES: list[tuple[dict[str, Any], Collection[str], list[str]]] = [
    (flow_of("user", "payment"), {"user"}, ["/steps/s1/service"]),
    (flow_of("user"), {"user"}, []),
    (flow_of("user"), set(), []),  # nobody has registered anything: services are other programs
    (flow_of("-", ""), {"user"}, []),
    (flow_of("$pay", config={"services": {"pay": "user"}}), {"user"}, []),
    (
        flow_of("$pay", "$pay", config={"services": {"pay": "payment"}}),
        {"user"},
        ["/config/services/pay"] * 2,
    ),
    (flow_of("$a/b", config={"services": {"a/b": "payment"}}), {"user"}, ["/config/services/a~1b"]),
    (flow_of("$pay", config={"services": {}}), {"user"}, []),  # another finding says so
    (flow_of("$pay", config={"services": {"pay": 7}}), {"user"}, []),
    (flow_of(7, None), {"user"}, []),
    ({"steps": "none", "config": 1}, {"user"}, []),
    ({"steps": {"s": 1}}, {"user"}, []),
]


@pytest.mark.parametrize(("raw", "registered", "places"), CASES)
def test_unregistered_services_are_found(
    raw: dict[str, Any], registered: Collection[str], places: list[str]
) -> None:
    found = list(service_findings(raw, registered))
    assert [finding.pointer for finding in found] == places
    assert {finding.severity for finding in found} <= {"warning"}


def warnings(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.pointer, finding.message) for finding in findings]


async def test_administrators_are_warned_once_a_service_is_registered() -> None:
    there = await rig()
    definitions = there.service.definitions
    register = there.service.integrations.administration.register
    raw = flow_dict("other")
    for step, service in zip(raw["steps"].values(), ("svc", "missing"), strict=False):
        step["service"] = service
    named = next(name for name, step in raw["steps"].items() if step["service"] == "missing")
    assert await definitions.check(raw, ROOT) == []
    await register("svc", RegistrationCommand(), ROOT)
    expected = [(f"/steps/{named}/service", "No service is registered as 'missing'")]
    assert warnings(await definitions.check(raw, ROOT)) == expected
    assert warnings(await definitions.check(raw, trusted_caller("python"))) == expected
    assert await definitions.check(raw, Caller("ada")) == [], "users do not learn which services there are"
    flow, found = await definitions.parse_with_warnings(raw)
    assert (flow.flow, warnings(found)) == ("other", expected)
    assert await there.service.create_flow(raw) == "other", "it is published all the same"
    await register("missing", RegistrationCommand(), ROOT)
    assert await definitions.check(raw, ROOT) == []
    assert await definitions.check("nothing", ROOT) != []
