"""Checks of the order of transitions and of the number of people: transitions that nobody can ever run.

The search for them follows the transitions of a flow with as many people as can have its roles. A person is
the set of transitions that they ran, as bits, so that people who ran the same ones are interchangeable.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import Struct

from app.contracts.definition import Finding
from app.flow.lint.assignments import RolesOnStates
from app.flow.lint.common import as_object, is_integer
from app.flow.lint.findings import warning
from app.flow.lint.graph import descendants, reached
from app.flow.lint.participants import texts_in
from app.flow.lint.permissions import reads_caller, roles_of
from app.flow.lint.reachability import entries_of, is_well_formed, targets_of
from app.flow.lint.spelling import quoted
from app.flow.lint.transitions import never_runs
from app.flow.values.struct_errors import escape
from app.kit.deadline import require_time

MAX_STEPS = 500
MAX_ATTEMPTS = 20_000
"""Runs of transitions that the search tries: with more, it finds nothing."""
MAX_RULES = 64
"""Transitions that rules name up to which the search is made."""
MAX_DISTINGUISHED = 16
"""People of one role up to which the search counts them; roles of more people are unlimited for it."""
OWNER = ""
"""The owner of a state, in place of a role: no role has an empty name."""

People = tuple[tuple[int, ...], ...]
"""The people of each limited role, each person as the bits of the transitions that they ran."""


class Duty(Struct, frozen=True):
    """A transition in the search.

    ``roles`` are the limited roles of the people who may run it; None if others may, who never were excluded.
    ``needed`` different people of one of them must run it. ``ran`` is its bit, 0 if no rule names it;
    ``excluding`` are the bits of its ``notBy``.
    """

    at: str
    target: str
    roles: tuple[str, ...] | None
    needed: int
    ran: int
    excluding: int


def duty_findings(raw: dict[str, Any], steps: dict[str, Any], roles: RolesOnStates) -> Iterator[Finding]:
    """Yield findings about the order of transitions; none while a step or transition is malformed."""
    if len(steps) > MAX_STEPS or not is_well_formed(raw, steps):
        return
    order = _Order(steps)
    yield from _check_order(steps, roles, order)
    yield from _check_numbers(raw, steps, roles, order)


class _Order:
    """The order in which the steps of a flow can follow each other."""

    def __init__(self, steps: dict[str, Any]) -> None:
        self._reached = descendants(targets_of(steps))
        self._bits = {name: 1 << position for position, name in enumerate(steps)}
        self._after: dict[str, int] = {}
        for step in steps.values():
            for name, transition in step["transitions"].items():
                self._after[name] = self._after.get(name, 0) | self._reached[transition["step"]]

    def can_precede(self, name: str, step: str) -> bool:
        """True if a state can be at a step after a transition of this name."""
        return self.includes(self._after.get(name, 0), step)

    def steps_after(self, steps: Iterable[str]) -> int:
        """Return the steps themselves and all that can follow one of them, as bits."""
        found = 0
        for step in steps:
            found |= self._reached[step]
        return found

    def includes(self, steps: int, step: str) -> bool:
        """True if ``steps``, as bits, have a step."""
        return bool(steps & self._bits[step])


def _places(steps: dict[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield the pointer, step, name and members of each transition."""
    for step_name, step in steps.items():
        for name, transition in step["transitions"].items():
            yield f"/steps/{escape(step_name)}/transitions/{escape(name)}", step_name, name, transition


def _check_order(steps: dict[str, Any], roles: RolesOnStates, order: _Order) -> Iterator[Finding]:
    """Yield findings about rules for what cannot have happened before, and roles that nobody has yet."""
    known = {name for _, _, name, _ in _places(steps)}
    assigned_at = {
        role: order.steps_after(each.transition["step"] for each in places)
        for role, places in roles.assigned.items()
        if roles.is_fixed(role) and as_object(roles.declared[role]).get("assignable") is None
    }
    for at, step, _, transition in _places(steps):
        for position, named in texts_in(transition.get("notBy")):
            if named in known and not order.can_precede(named, step):
                yield warning(
                    f"{at}/notBy/{position}",
                    f"{quoted(named)} excludes nobody: no state is here after that transition",
                    "name a transition that runs before this one, or leave it out",
                )
        wanted = [role for _, role in texts_in(roles_of(transition))]
        if not wanted or not assigned_at.keys() >= set(wanted):
            continue
        if not any(order.includes(assigned_at[role], step) for role in wanted):
            yield warning(
                f"{at}/roles",
                f"Nobody has the role {quoted(wanted[0])} yet: no transition before this step assigns it",
                'assign the role earlier, or add "assignable" or "group" to it',
            )


def _check_numbers(
    raw: dict[str, Any], steps: dict[str, Any], roles: RolesOnStates, order: _Order
) -> Iterator[Finding]:
    """Yield findings about transitions that exclude everybody who could run them."""
    sizes = _sizes(steps, roles, order)
    duties = _duties(steps, sizes)
    wanted = {duty.at for step in duties.values() for duty in step if duty.roles and duty.excluding}
    if not wanted:
        return
    entries = entries_of(raw, steps)
    found = _search(duties, entries, sizes, wanted)
    if found is None:
        return
    ran, entered = found
    possible = reached({step: [duty.target for duty in each] for step, each in duties.items()}, entries)
    ends = [name for name, step in steps.items() if not step["transitions"] and name in possible - entered]
    for name in entered:
        for duty in duties[name]:
            most = max((sizes[role] for role in duty.roles or ()), default=0)
            if duty.at in wanted - ran and duty.needed <= most:
                yield _excludes_everybody(duty, most, ends)


def _excludes_everybody(duty: Duty, most: int, ends: list[str]) -> Finding:
    closed = ""
    if ends:
        more = f" and {len(ends) - 1} more" if len(ends) > 1 else ""
        closed = f"; no state can reach the end {quoted(ends[0])}{more}"
    if duty.roles == (OWNER,):
        return warning(
            f"{duty.at}/notBy",
            f"Only the owner of a state may run this transition, whom the rule always excludes{closed}",
            "list roles of `participants` in `roles` of the transition, or leave `notBy` out",
        )
    people = f"{most} person" if most == 1 else f"{most} people"
    others = "one other" if duty.needed == 1 else f"{duty.needed} others"
    return warning(
        f"{duty.at}/notBy",
        f"The rule always excludes too many: at most {people} can have the role "
        f"{quoted((duty.roles or (OWNER,))[0])}, and {others} must run this transition{closed}",
        "let more people have the role, by a group or a list of ids, list another role, or name fewer "
        "transitions",
    )


def _sizes(steps: dict[str, Any], roles: RolesOnStates, order: _Order) -> dict[str, int]:
    """Return the largest number of people who can have each role that is limited, and the owner."""
    cycles = {
        id(transition)
        for _, step, _, transition in _places(steps)
        if order.includes(order.steps_after([transition["step"]]), step)
    }
    sizes = {OWNER: 1}
    for role, assigned in roles.assigned.items():
        again = any(id(each.transition) in cycles for each in assigned)
        most = sum(each.most for each in assigned)
        if roles.is_fixed(role) and not again and most <= MAX_DISTINGUISHED:
            sizes[role] = most
    return sizes


def _duties(steps: dict[str, Any], sizes: dict[str, int]) -> dict[str, list[Duty]]:
    """Return the transitions of each step that somebody or a timeout may run; none with too many rules."""
    named = dict.fromkeys(
        name
        for _, _, _, transition in _places(steps)
        if _limited_roles(transition, sizes) is not None
        for _, name in texts_in(transition.get("notBy"))
    )
    if len(named) > MAX_RULES:
        return {}
    bits = {name: 1 << position for position, name in enumerate(named)}
    duties: dict[str, list[Duty]] = {step: [] for step in steps}
    for at, step, name, transition in _places(steps):
        timed = as_object(steps[step].get("timeout")).get("transition") == name
        if never_runs(transition, is_timed=timed):
            continue
        roles = None if timed else _limited_roles(transition, sizes)
        excluding = 0
        for _, each in texts_in(transition.get("notBy")):
            excluding |= bits.get(each, 0)
        count = as_object(transition.get("approvals")).get("count")
        needed = max(1, count) if is_integer(count) else 1
        duties[step].append(Duty(at, transition["step"], roles, needed, bits.get(name, 0), excluding))
    return duties


def _limited_roles(transition: dict[str, Any], sizes: dict[str, int]) -> tuple[str, ...] | None:
    """Return the roles of the people who may run a transition; None if one of them is not limited."""
    roles, voters = roles_of(transition), as_object(transition.get("approvals")).get("of")
    if roles is None:
        return None if reads_caller(transition.get("guard")) else (OWNER,)
    # Voters need the role of the votes, whatever else the transition lists.
    wanted = [voters] if isinstance(voters, str) else [role for _, role in texts_in(roles)]
    return tuple(dict.fromkeys(wanted)) if wanted and all(role in sizes for role in wanted) else None


def _search(
    duties: dict[str, list[Duty]], entries: list[str], sizes: dict[str, int], wanted: set[str]
) -> tuple[set[str], set[str]] | None:
    """Return the transitions that can run and the steps that states reach; None if all ``wanted`` can run.

    None also if the search would take too long.
    """
    used = {role for step in duties.values() for duty in step for role in duty.roles or () if duty.ran}
    places = {role: position for position, role in enumerate(role for role in sizes if role in used)}
    nobody: People = tuple((0,) * sizes[role] for role in places)
    seen = dict.fromkeys((entry, nobody) for entry in entries)
    frontier = deque(seen)
    ran: set[str] = set()
    attempts = 0
    while frontier:
        require_time()
        step, people = frontier.popleft()
        for duty in duties[step]:
            attempts += 1
            for after in _after(duty, people, places, sizes):
                attempts += 1
                if attempts > MAX_ATTEMPTS:
                    return None
                ran.add(duty.at)
                if (duty.target, after) not in seen:
                    seen[duty.target, after] = None
                    frontier.append((duty.target, after))
        if ran >= wanted:
            return None
    return ran, {step for step, _ in seen}


def _after(duty: Duty, people: People, places: dict[str, int], sizes: dict[str, int]) -> Iterator[People]:
    """Yield the people after a transition, for each different choice of those who run it."""
    if duty.roles is None:
        yield people
        return
    for role in duty.roles:
        if role not in places:  # nobody with it ran a transition that a rule names
            if duty.needed <= sizes[role]:
                yield people
            continue
        position = places[role]
        group = people[position]
        free = Counter(ran for ran in group if not ran & duty.excluding)
        if not duty.ran:
            if duty.needed <= free.total():
                yield people
            continue
        for chosen in _choices(list(free.items()), duty.needed):
            after = Counter(group)
            for ran, number in chosen:
                after[ran] -= number
                after[ran | duty.ran] += number
            yield (*people[:position], tuple(sorted(after.elements())), *people[position + 1 :])


def _choices(kinds: list[tuple[int, int]], needed: int) -> Iterator[list[tuple[int, int]]]:
    """Yield each choice of ``needed`` people, given and returned as kinds of people with their numbers."""
    if needed > sum(number for _, number in kinds):
        return
    if not kinds:
        yield []
        return
    (kind, number), others = kinds[0], kinds[1:]
    for chosen in range(min(number, needed), -1, -1):
        for rest in _choices(others, needed - chosen):
            yield [(kind, chosen), *rest]
