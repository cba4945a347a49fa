"""References (``$name``) of the steps of a flow to its config."""

from msgspec import structs

from app.contracts.flow import Flow


def resolve_references(flow: Flow) -> Flow:
    """Replace each ``$name`` in the service, module and path of a step by its value in the config.

    A name that the config does not have stays as it is, as in the base system.
    """

    def look_up(value: str | None, table: dict[str, str] | None) -> str | None:
        if value is None or not value.startswith("$"):
            return value
        return (table or {}).get(value[1:], value)

    config = flow.config
    steps = {
        name: structs.replace(
            step,
            service=look_up(step.service, config.services),
            module=look_up(step.module, config.modules),
            path=look_up(step.path, config.pathes),
        )
        for name, step in flow.steps.items()
    }
    return structs.replace(flow, steps=steps)
