"""Checks of the members of a flow other than its steps."""

from collections.abc import Iterator
from typing import Any

from app.contracts.definition import Finding
from app.flow.lint.common import as_object, check_duration, check_roles, check_texts
from app.flow.lint.findings import error, warning
from app.flow.lint.spelling import SLUG, SLUG_RULE, instead, quoted
from app.flow.values.struct_errors import escape


def flow_findings(raw: dict[str, Any]) -> Iterator[Finding]:
    """Yield findings about the members of a flow other than its steps."""
    yield from _check_slug(raw.get("flow"))
    yield from check_duration("/ttl", raw.get("ttl"))
    yield from check_texts("", raw)
    yield from check_roles("/roles", raw.get("roles"))
    if raw.get("roles") == []:
        yield error(
            "/roles",
            "Nobody may see this flow",
            "list the roles that may see it, or leave `roles` out for everybody",
        )
    steps = raw.get("steps")
    if isinstance(steps, dict):
        yield from _check_initial(raw.get("initialStep"), steps)
        yield from _check_prefabs(raw, steps)
    default = as_object(raw.get("config")).get("defaultFlow")
    if isinstance(default, str) and not SLUG.match(default):
        yield warning(
            "/config/defaultFlow",
            f"No flow can be called {quoted(default)}: {SLUG_RULE}",
            "write the slug of the flow with which clients start by default",
        )


def _check_slug(slug: object) -> Iterator[Finding]:
    if not isinstance(slug, str) or SLUG.match(slug):
        return
    if ":" in slug:
        advice = f"write {slug.replace(':', '-')[:64]!r}; a colon separates the parts of ids and tokens"
        yield error("/flow", "The slug of a flow must not have a colon", advice)
    else:
        yield error(
            "/flow",
            f"The slug is not valid: {SLUG_RULE}",
            "shorten it, or replace the other characters by '-'",
        )


def _check_initial(initial: object, steps: dict[str, Any]) -> Iterator[Finding]:
    if isinstance(initial, str) and steps and initial not in steps:
        yield error(
            "/initialStep",
            f"There is no step {quoted(initial)}",
            instead(initial, steps, "name the step at which the flow starts"),
        )


def _check_prefabs(raw: dict[str, Any], steps: dict[str, Any]) -> Iterator[Finding]:
    """Yield findings about prefabs, which the server makes itself (``tokens.prefabs``)."""
    for name in as_object(raw.get("prefabs")):
        at = f"/prefabs/{escape(name)}"
        if name not in steps:
            advice = instead(name, steps, "leave it out, or name a step")
            yield warning(at, f"The prefab is left out: there is no step {quoted(name)}", advice)
        elif as_object(steps[name]).get("initial") is not True:
            yield warning(
                at,
                f"The prefab is left out: the step {quoted(name)} is not initial",
                'leave it out, or give the step "initial": true',
            )
