"""The pages about access have what routes, events and the policy declare."""

import re

from app.auth.policy import GRANTED_BY, SCOPES, Access, Permission
from app.http.application import all_endpoints
from app.kit.casing import camel_case
from realtime.gateway.access import EVENT_ACCESS
from tests.support.documentation import page

HTTP, EVENTS, ACCESS = "docs/reference/http.md", "docs/reference/events.md", "docs/reference/access.md"


def section(path: str, title: str) -> list[str]:
    """Return the rows of the table below a title."""
    text = page(path).split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [line for line in text.splitlines() if line.startswith("| ")][2:]


def row(request: str, access: Access) -> str:
    return f"| `{request}` | {access.permission.value} | {'yes ' if access.for_services else ''}|"


def assert_same(found: list[str], expected: list[str]) -> None:
    assert not set(expected) - set(found), "add:\n" + "\n".join(sorted(set(expected) - set(found)))
    assert not set(found) - set(expected), "remove:\n" + "\n".join(sorted(set(found) - set(expected)))


def test_the_page_of_routes_has_their_access() -> None:
    expected = []
    for each in all_endpoints({}):
        path = re.sub(r"\{(\w+)\}", lambda match: "{" + camel_case(match[1]) + "}", each.path)
        expected.append(row(f"{each.method} {path}", each.access))
    assert_same(section(HTTP, "Access"), expected)


def test_the_page_of_events_has_their_access() -> None:
    expected = [row(event, access) for event, access in EVENT_ACCESS.items()]
    assert_same(section(EVENTS, "Access"), expected)


def test_the_page_of_access_has_all_scopes_and_permissions() -> None:
    scopes = [line.split("|")[1].strip() for line in section(ACCESS, "Scopes")]
    assert scopes == [f"`{scope}`" for scope in SCOPES]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section(ACCESS, "Permissions")]
    listed = {cell[0]: set(re.findall(r"`(flow:\w+)`", cell[1])) for cell in cells}
    assert listed == {each.value: set(GRANTED_BY[each]) for each in Permission}
