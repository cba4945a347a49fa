"""Checks of registrations before they are stored, with every fault at once."""

import re
from collections.abc import Callable, Iterator, Sequence

from msgspec import to_builtins

from app.contracts.errors import Fault
from app.contracts.identifiers import is_id
from app.contracts.integration import Integration, is_alias
from app.contracts.integration_commands import RegistrationCommand
from app.flow.lint.spelling import NAME
from app.flow.step_services import owns_a_step
from app.flow.values.masking import covers
from app.flow.values.struct_errors import faults_of
from app.services.definitions.catalog import DefinitionCatalog

_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)+\Z")
ALIAS_RULE = (
    "must be 1 to 64 lower-case letters, digits, '.', '_' or '-', with a letter or digit at both ends"
)


class RegistrationFaults:
    """Finds the faults of registrations."""

    def __init__(self, catalog: DefinitionCatalog, address_fault: Callable[[str], str | None]) -> None:
        self._catalog = catalog
        self._address_fault = address_fault

    async def find(
        self, alias: str, command: RegistrationCommand, stored: Integration | None, *, own: bool
    ) -> list[Fault]:
        """Return the faults of a command.

        Args:
            alias: The service.
            command: The members that are set.
            stored: The registration that is changed, None for a new one.
            own: The service itself requests it: it receives flows with a step of its own alone, and others
                that it receives already; the same for sensitive fields.
        """
        faults = [Fault("/alias", ALIAS_RULE)] if not is_alias(alias) else []
        faults += faults_of(to_builtins(command), RegistrationCommand)
        if faults:
            return faults
        if command.url:
            reason = self._address_fault(command.url)
            if reason is not None:
                faults.append(Fault("/url", reason))
        for name in ("events", "flows", "steps", "fields"):
            faults += _repeated(name, getattr(command, name) or ())
        allowed = set(stored.flows or ()) if stored is not None else set()
        for position, flow_id in enumerate(command.flows or ()):
            message = await self._flow_fault(alias, flow_id, own=own and flow_id not in allowed)
            if message is not None:
                faults.append(Fault(f"/flows/{position}", message))
        for position, step in enumerate(command.steps or ()):
            flow_id, slash, name = step.rpartition("/")
            if not NAME.match(name) or (slash and not is_id(flow_id)):
                faults.append(Fault(f"/steps/{position}", "must be a step, or a flow and a step: flow/step"))
        for position, pointer in enumerate(command.fields or ()):
            if not _POINTER.match(pointer):
                faults.append(
                    Fault(f"/fields/{position}", "must be a JSON pointer into a payload, such as /order/id")
                )
        if own and command.fields:
            faults += await self._field_faults(command.fields, stored)
        return faults

    async def _field_faults(self, fields: Sequence[str], stored: Integration | None) -> list[Fault]:
        """Return a fault for each sensitive field that a service lists itself, unless it has it already.

        A field that is listed is not masked, so that a service must not decide it.
        """
        allowed = set(() if stored is None else stored.fields or ())
        added = [(position, pointer) for position, pointer in enumerate(fields) if pointer not in allowed]
        if not added:
            return []
        sensitive = {
            pointer for each in await self._catalog.all_newest() for pointer in each.flow.sensitive or ()
        }
        message = "is sensitive in a flow; an administrator may add it to the registration of a service"
        return [
            Fault(f"/fields/{position}", message)
            for position, pointer in added
            if any(covers(each, pointer) for each in sensitive)
        ]

    async def _flow_fault(self, alias: str, flow_id: str, *, own: bool) -> str | None:
        newest = await self._catalog.newest(flow_id) if is_id(flow_id) else None
        exists = newest is not None and not newest.retired
        if newest is not None and exists and owns_a_step(newest.flow, alias):
            return None
        if own:  # the same for a flow that does not exist, which a service need not know
            return (
                "must be a flow with a step of this service; an administrator may add any other flow to its "
                "registration"
            )
        return None if exists else "must be a published flow"


def _repeated(name: str, values: Sequence[str]) -> Iterator[Fault]:
    seen: set[str] = set()
    for position, value in enumerate(values):
        if value in seen:
            yield Fault(f"/{name}/{position}", "is listed twice")
        seen.add(value)
