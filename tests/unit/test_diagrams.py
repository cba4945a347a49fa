"""Diagrams of flows: what they show, and that nothing which an author writes breaks them."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from datetime import timedelta
from html import unescape
from io import StringIO
from itertools import combinations
from typing import Any
from unittest.mock import Mock
from xml.etree import ElementTree

import graphlay
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contracts.flow import Flow
from app.diagrams.dot import dot
from app.diagrams.formats import diagram
from app.diagrams.layout import Dimensions, Frame, Link, Placement, Point, layered_layout, tree_layout
from app.diagrams.mermaid import mermaid
from app.diagrams.model import cut, picture_of
from app.diagrams.svg import MAX_LISTED, svg
from app.diagrams.text_metrics import NAME, fit
from app.diagrams.traversal import back_arrows, spanning_arrows
from config.settings import SHIPPED_FLOWS
from tests.support.drawn_flows import expense, flow_of, flows, neighbourly, step, tangled, texts, to
from tests.support.long_form import examples, form
from tests.support.processor_time import bounded
from tests.support.samples import expense_flow

OFTEN = examples(150, fraction=25)
MANY = form("a large diagram: transitions of each step", short=20, long=100)
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = 'He said "<b>no</b>" & left; #35; ]} `x` \\N \\" | --> %% end\nstyle s0\x00\u202e\ud800\uffff'
SHOWN = 'He said "<b>no</b>" & left; #35; ]} `x` \\N \\" | --> %% end style s0' + "\ufffd" * 4


def parse(drawn: str) -> ElementTree.Element:
    """Also through UTF-8, as it is sent."""
    return ElementTree.fromstring(drawn.encode())


def groups(root: ElementTree.Element, kind: str) -> dict[str, ElementTree.Element]:
    """The parts that are steps or transitions (the last of those with one name)."""
    return {
        part.attrib[f"data-{kind}"]: part for part in root.iter(f"{SVG}g") if f"data-{kind}" in part.attrib
    }


def lines_in(part: ElementTree.Element) -> list[str]:
    return [line.text or "" for line in part.iter(f"{SVG}text")]


def test_mermaid_of_a_flow() -> None:
    assert mermaid(expense(), "review") == (
        """\
flowchart TD
    s0["draft"]
    in0((" ")):::start --> s0
    s1["review"]:::current
    s2(["approved"])
    s3(["rejected"])
    s0 -->|"submit"| s1
    s1 -.->|"approve<br/>#91;user#46;id #33;#61; state#46;userId#93;<br/>roles#58; approver"| s2
    s1 -.->|"reject<br/>#91;user#46;id #33;#61; state#46;userId#93;<br/>roles#58; approver"| s3
    s1 -->|"remind<br/>after P2D<br/>only by timeout"| s1
    s1 -->|"withdraw<br/>reversible"| s0
    classDef start fill:#7b8794,stroke:#7b8794
    classDef entry fill:none,stroke:#7b8794
    classDef current fill:#fde68a,stroke:#b45309,stroke-width:3px,color:#1f2933
"""
    )


def test_dot_of_a_flow() -> None:
    assert dot(expense(), "review") == (
        """\
digraph "expense" {
    node [shape=box, style="rounded,filled", fillcolor="#f4f6f8", color="#52606d", fontcolor="#1f2933", \
fontname="Helvetica"];
    edge [fontsize=11, color="#52606d", fontcolor="#1f2933", fontname="Helvetica"];
    s0 [label="draft"];
    in0 [shape=circle, style=filled, label="", width=0.15, fillcolor="#52606d"];
    in0 -> s0;
    s1 [label="review", fillcolor="#fde68a", color="#b45309", penwidth=3];
    s2 [label="approved", peripheries=2];
    s3 [label="rejected", peripheries=2];
    s0 -> s1 [label="submit"];
    s1 -> s2 [label="approve\\n[user.id != state.userId]\\nroles: approver", style=dashed];
    s1 -> s3 [label="reject\\n[user.id != state.userId]\\nroles: approver", style=dashed];
    s1 -> s1 [label="remind\\nafter P2D\\nonly by timeout"];
    s1 -> s0 [label="withdraw\\nreversible"];
}
"""
    )


def test_rules_between_people_are_notes() -> None:
    raw = expense_flow(participants={"approver": {"group": "chiefs"}})
    approve = raw["steps"]["review"]["transitions"]["approve"]
    approve |= {"notBy": ["submit", "withdraw"], "approvals": {"of": "approver", "count": 2}}
    del approve["guard"]
    (arrow,) = [arrow for arrow in picture_of(msgspec.convert(raw, Flow)).arrows if arrow.name == "approve"]
    assert arrow.notes == ("roles: approver", "votes: 2 of approver", "not by: submit, withdraw")


def test_svg_of_a_flow() -> None:
    root = parse(svg(expense(), "review"))
    steps, ways = groups(root, "step"), groups(root, "transition")
    assert list(steps) == ["draft", "review", "approved", "rejected"]
    assert [name for name, part in steps.items() if "current" in part.attrib["class"]] == ["review"]
    ends = [name for name, part in steps.items() if part.find(f"{SVG}rect[@class='rim']") is not None]
    assert ends == ["approved", "rejected"]
    assert {name: lines_in(part) for name, part in ways.items()} == {
        "submit": ["submit"],
        "approve": ["approve", "[user.id != state.userId]", "roles: approver"],
        "reject": ["reject", "[user.id != state.userId]", "roles: approver"],
        "remind": ["remind", "after P2D", "only by timeout"],
        "withdraw": ["withdraw", "reversible"],
    }
    explicit = [name for name, part in ways.items() if "explicit" in part.attrib["class"]]
    assert explicit == ["approve", "reject"]
    assert all(len(part.findall(f"{SVG}path[@class='head']")) == 1 for part in ways.values())
    assert len(root.findall(f".//{SVG}circle[@class='start']")) == 1
    assert root.findtext(f"{SVG}title") == "expense (at review)"
    assert root.attrib["viewBox"] == f"0 0 {root.attrib['width']} {root.attrib['height']}"
    style = root.findtext(f"{SVG}style") or ""
    assert "prefers-color-scheme:dark" in style
    selectors = re.findall(r"[^{}]+(?=\{)", style)
    assert all(one.strip().startswith((".flow-diagram", "@media")) for s in selectors for one in s.split(","))


def test_titles_come_before_names() -> None:
    flow = flow_of(step("a", to("b", title="On we go"), title="The beginning"), step("b"), title="A title")
    assert '["The beginning"]' in mermaid(flow)
    assert '|"On we go"|' in mermaid(flow)
    assert 'digraph "A title"' in dot(flow)
    root = parse(svg(flow))
    assert root.findtext(f"{SVG}title") == "A title"
    assert lines_in(groups(root, "step")["a"]) == ["The beginning"]
    assert groups(root, "step")["a"].findtext(f"{SVG}title") == "The beginning (a)"
    assert groups(root, "transition")["go"].findtext(f"{SVG}title") == "On we go (go)"


def test_where_a_flow_may_begin_too() -> None:
    flow = flow_of(step("a", to("b"), initial=True), step("b", to("c"), initial=True), step("c"), initial="a")
    assert [line.split()[0] for line in mermaid(flow).splitlines() if ":::" in line] == [
        'in0(("',
        'in1(("',
    ]
    assert ":::start --> s0" in mermaid(flow)
    assert ":::entry --> s1" in mermaid(flow)
    assert "in1 -> s1;" in dot(flow)
    circles = parse(svg(flow)).findall(f".//{SVG}circle")
    assert [circle.attrib["class"] for circle in circles] == ["start", "entry"]


@pytest.mark.parametrize("form", ["mermaid", "dot", "svg"])
def test_nothing_is_highlighted_without_a_step_that_is_there(form: Any) -> None:
    plain = diagram(expense(), form)
    assert diagram(expense(), form, "nowhere") == plain
    assert diagram(expense(), form, "draft") != plain
    assert parse(svg(expense())).findtext(f"{SVG}title") == "expense"


@pytest.mark.parametrize(
    ("after", "shown"),
    [
        ("P2D", "P2D"),
        ("PT15M", "PT15M"),
        ("PT900S", "PT15M"),
        ("PT36H", "P1DT12H"),
        ("PT1.5S", "PT1.5S"),
        ("P36525D", "P36525D"),
        ("PT3661S", "PT1H1M1S"),
    ],
)
def test_a_timeout_says_when(after: str, shown: str) -> None:
    ways = (to("b"), to("a", "wait", reversible=True))
    flow = flow_of(step("a", *ways, timeout={"after": after, "transition": "wait"}), step("b"))
    assert picture_of(flow).arrows[1].notes == (f"reversible · after {shown}",)
    assert picture_of(flow).arrows[0].notes == ()


@OFTEN
@given(st.integers(1, 36_525 * 86_400_000))
def test_durations_read_back(milliseconds: int) -> None:
    span = timedelta(milliseconds=milliseconds)
    flow = flow_of(step("a", to("a"), timeout={"after": span, "transition": "go"}))
    (note,) = picture_of(flow).arrows[0].notes
    assert msgspec.convert(note.removeprefix("after "), timedelta) == span


def test_long_texts_are_cut_and_whole_in_tooltips() -> None:
    title, guard = "A long title " * 12, "state.revision > 3 && " * 20 + "true"
    flow = flow_of(step("a", to("b", guard=guard, roles=["r" * 128])), step("b", title=title))
    for drawn in (mermaid(flow), dot(flow)):
        assert "A long title A long title" in drawn
        assert max(map(len, drawn.splitlines())) < 300
    root = parse(svg(flow))
    box, way = groups(root, "step")["b"], groups(root, "transition")["go"]
    assert all(line.endswith("…") for line in (*lines_in(box), *lines_in(way)[1:]))
    assert box.findtext(f"{SVG}title") == f"{title.strip()} (b)"
    assert way.findtext(f"{SVG}title") == f"go\n[{guard}]\nroles: {'r' * 128}"


def test_a_hostile_title() -> None:
    flow = flow_of(
        step("end", to("graph", "class", title=HOSTILE), title=HOSTILE), step("graph"), title=HOSTILE
    )
    root = parse(svg(flow, "end"))
    assert root.findtext(f"{SVG}title") == f"{SHOWN} (at {SHOWN})"
    assert groups(root, "step")["end"].findtext(f"{SVG}title") == f"{SHOWN} (end)"
    assert dot(flow).startswith(
        'digraph "He said \\"<b>no</b>\\" &amp; left; #35; ]} `x` \\\\N \\\\\\" | --> %% end style s0'
    )
    (box,) = (line for line in mermaid(flow).splitlines() if line.startswith('    s0["'))
    assert box.startswith('    s0["He said #34;#60;b#62;no#60;#47;b#62;#34; #38; left#59; #35;35#59; ')


@OFTEN
@given(flows())
def test_svg_is_well_formed_and_has_no_script(flow: Flow) -> None:
    root = parse(svg(flow, "s0"))
    assert {part.tag.removeprefix(SVG) for part in root.iter()} <= {
        "svg", "title", "style", "g", "rect", "circle", "path", "text",
    }  # fmt: skip
    assert not any(name.startswith("on") or "href" in name for part in root.iter() for name in part.attrib)
    style = root.findtext(f"{SVG}style") or ""
    assert "url(" not in style
    assert "@import" not in style
    picture = picture_of(flow, "s0")
    assert list(groups(root, "step")) == list(flow.steps)
    ways = [part for part in root.iter(f"{SVG}g") if "data-transition" in part.attrib]
    assert Counter(part.attrib["data-transition"] for part in ways) == Counter(a.name for a in picture.arrows)


def unmermaid(label: str) -> list[str]:
    """The lines of a label as Mermaid shows it."""
    assert not re.search(r'["`\[\]{}|<>;&%\\]', re.sub(r"<br/>|#\d+;", "", label))
    return [re.sub(r"#(\d+);", lambda code: chr(int(code[1])), line) for line in label.split("<br/>")]


@OFTEN
@given(flows())
def test_mermaid_reads_back(flow: Flow) -> None:
    source, picture = mermaid(flow, "s0"), picture_of(flow, "s0")
    boxes = re.findall(r'^    s(\d+)(\[|\(\[)"(.*)"(?:\]|\]\))(:::current)?$', source, re.MULTILINE)
    assert [int(number) for number, *_ in boxes] == list(range(len(picture.boxes)))
    for box, (number, shape, label, current) in zip(picture.boxes, boxes, strict=True):
        assert unmermaid(label) == [cut(box.label, 60)]
        assert (shape == "([") == box.end
        assert bool(current) == (number == "0")
    edges = re.findall(r'^    s(\d+) (-->|-\.->)\|"(.*)"\| s(\d+)$', source, re.MULTILINE)
    for arrow, (start, line, label, end) in zip(picture.arrows, edges, strict=True):
        assert (arrow.source, arrow.target) == (int(start), int(end))
        assert (line == "-.->") == arrow.explicit
        assert unmermaid(label) == [cut(arrow.label, 60), *(cut(note, 40) for note in arrow.notes)]
    ways_in = re.findall(r'^    in\d+\(\(" "\)\):::(start|entry) --> s\d+$', source, re.MULTILINE)
    assert len(boxes) + len(edges) + len(ways_in) + 4 == len(source.splitlines())


QUOTED = r'"((?:[^"\\\n]|\\.)*)"'


def undot(quoted: str) -> list[str]:
    """The lines of a label as Graphviz shows it."""
    lines = [[""]]
    for character in re.findall(r"\\.|[^\\]", quoted):
        if character == "\\n":
            lines.append([""])
        else:
            assert character in ("\\\\", '\\"') or len(character) == 1
            lines[-1].append(character[-1])
    return [unescape("".join(line)) for line in lines]


@OFTEN
@given(flows())
def test_dot_reads_back(flow: Flow) -> None:
    source, picture = dot(flow, "s0"), picture_of(flow, "s0")
    (title,) = re.findall(rf"\Adigraph {QUOTED} {{$", source, re.MULTILINE)
    assert undot(title) == [picture.title]
    boxes = re.findall(rf"^    s(\d+) \[label={QUOTED}([^\"\n]*)(.*)\];$", source, re.MULTILINE)
    for box, (number, label, end, current) in zip(picture.boxes, boxes, strict=True):
        assert undot(label) == [cut(box.label, 60)]
        assert ("peripheries" in end) == box.end
        assert bool(current) == (number == "0")
    edges = re.findall(rf"^    s(\d+) -> s(\d+) \[label={QUOTED}(, style=dashed)?\];$", source, re.MULTILINE)
    for arrow, (start, end, label, dashed) in zip(picture.arrows, edges, strict=True):
        assert (arrow.source, arrow.target) == (int(start), int(end))
        assert bool(dashed) == arrow.explicit
        assert undot(label) == [cut(arrow.label, 60), *(cut(note, 40) for note in arrow.notes)]


def edges_of(frame: Frame) -> tuple[float, float, float, float]:
    wide, high = frame.width / 2, frame.height / 2
    return frame.x - wide, frame.y - high, frame.x + wide, frame.y + high


def overlap(one: Frame, other: Frame) -> bool:
    left, top, right, bottom = edges_of(one)
    x, y, x2, y2 = edges_of(other)
    return min(right, x2) - max(left, x) > 0.01 and min(bottom, y2) - max(top, y) > 0.01


def on_the_rim(point: Point, frame: Frame) -> bool:
    left, top, right, bottom = edges_of(frame)
    inside = left - 0.01 <= point[0] <= right + 0.01 and top - 0.01 <= point[1] <= bottom + 0.01
    return inside and min(
        abs(point[0] - left), abs(point[0] - right), abs(point[1] - top), abs(point[1] - bottom)
    ) < 0.01  # fmt: skip


def check_placement(found: Placement, links: Sequence[Link], dots: Sequence[int]) -> None:
    parts = [*found.boxes, *found.labels, *(frame for frame, _ in found.dots.values())]
    assert not [pair for pair in combinations(parts, 2) if overlap(*pair)]
    for frame in parts:
        left, top, right, bottom = edges_of(frame)
        assert left > -0.01
        assert top > -0.01
        assert right < found.width + 0.01
        assert bottom < found.height + 0.01
    for link, label, way in zip(links, found.labels, found.routes, strict=True):
        assert on_the_rim(way.before[0], found.boxes[link.source])
        assert on_the_rim(way.before[-1], label)
        assert on_the_rim(way.after[0], label)
        assert on_the_rim(way.after[-1], found.boxes[link.target])
    assert tuple(found.dots) == tuple(dots)
    for box, (frame, line) in found.dots.items():
        assert on_the_rim(line[0], frame)
        assert on_the_rim(line[-1], found.boxes[box])


sizes = st.builds(Dimensions, st.floats(30, 250), st.floats(20, 60))


@OFTEN
@given(st.data())
def test_no_part_of_a_placement_lies_on_another(data: st.DataObject) -> None:
    boxes = tuple(data.draw(st.lists(sizes, min_size=1, max_size=10)))
    ends = st.integers(0, len(boxes) - 1)
    pairs = data.draw(st.lists(st.tuples(ends, ends, sizes), max_size=20))
    flow = flow_of(
        *(
            step(
                f"s{n}",
                *(to(f"s{end}", f"t{k}") for k, (start, end, _) in enumerate(pairs) if start == n),
            )
            for n in range(len(boxes))
        )
    )
    picture = picture_of(flow)
    sizes_of = {f"t{k}": size for k, (_, _, size) in enumerate(pairs)}
    back = back_arrows(picture)
    links = tuple(
        Link(arrow.source, arrow.target, sizes_of[arrow.name], number in back)
        for number, arrow in enumerate(picture.arrows)
    )
    dots = tuple(data.draw(st.lists(ends, max_size=3, unique=True)))
    found = layered_layout(boxes, dots, links)
    assert found is not None
    check_placement(found, links, dots)
    tree = tuple(links[number] for number in sorted(spanning_arrows(picture)))
    check_placement(tree_layout(boxes, (0,), tree), tree, (0,))


def test_an_arrow_that_leads_back_goes_up_through_its_label() -> None:
    box, label = Dimensions(80, 40), Dimensions(40, 16)
    found = layered_layout((box, box), (0,), (Link(0, 1, label), Link(1, 0, label, back=True)))
    assert found is not None
    upper, lower = found.boxes
    assert upper.y < lower.y
    for middle, way, up in zip(found.labels, found.routes, (-1, 1), strict=True):
        assert upper.y + 20 < middle.y - 8 < middle.y + 8 < lower.y - 20
        assert way.before[-1] == pytest.approx((middle.x, middle.y + up * 8))
        assert way.after[0] == pytest.approx((middle.x, middle.y - up * 8))


@OFTEN
@given(flows())
def test_without_the_arrows_that_lead_back_there_is_no_circle(flow: Flow) -> None:
    picture = picture_of(flow)
    back = back_arrows(picture)
    left = {(a.source, a.target) for number, a in enumerate(picture.arrows) if number not in back}
    while left:
        leaves = {target for _, target in left} - {source for source, _ in left}
        assert leaves, "a circle"
        left = {(source, target) for source, target in left if target not in leaves}
    assert all(number in back for number, a in enumerate(picture.arrows) if a.source == a.target)


@OFTEN
@given(flows())
def test_spanning_arrows_reach_each_step_once(flow: Flow) -> None:
    picture = picture_of(flow)
    spanning = spanning_arrows(picture)
    targets = [picture.arrows[number].target for number in spanning]
    assert len(targets) == len(set(targets))
    begins = {number for number, box in enumerate(picture.boxes) if box.entry}
    assert not begins & set(targets)
    reached, grew = set(begins), True
    while grew:
        grew = False
        for arrow in picture.arrows:
            if arrow.source in reached and arrow.target not in reached:
                reached.add(arrow.target)
                grew = True
    assert reached - begins <= set(targets)


def test_a_shipped_flow_leads_down_and_back_up() -> None:
    flow = msgspec.json.decode((SHIPPED_FLOWS / "purchase-approval.json").read_bytes(), type=Flow)
    height = {
        name: float(part.find(f"{SVG}rect").attrib["y"])  # type: ignore[union-attr]
        for name, part in groups(parse(svg(flow)), "step").items()
    }
    assert height["draft"] < height["manager-review"] < height["finance-review"] < height["rejected"]
    assert height["draft"] == min(height.values())
    assert height["withdrawn"] == max(height.values())


def test_texts_fit_their_boxes() -> None:
    root = parse(
        svg(flow_of(step("a", title="W" * 99), step("b", title="i" * 99), step("c", title="漢字 Ünï")))
    )
    for part in groups(root, "step").values():
        (line,) = lines_in(part)
        (box,) = part.findall(f"{SVG}rect[@class='box']")
        assert fit(NAME, line, 10_000).width < float(box.attrib["width"]) - 20


@OFTEN
@given(texts, st.floats(20, 300))
def test_fitted_text_is_no_wider_than_its_room(text: str, room: float) -> None:
    whole, shown = fit(NAME, text, 1_000_000), fit(NAME, text, room)
    assert shown.width <= room
    if whole.width <= room:
        assert shown == whole
    else:
        assert text.startswith(shown.text[:-1])
        assert shown.text[-1] == "…"


@pytest.mark.parametrize("ways", [2, 6])
def test_a_flow_that_is_too_tangled_names_what_it_does_not_draw(ways: int) -> None:
    flow = tangled(200, ways)
    root = parse(svg(flow, "s7"))
    steps = groups(root, "step")
    assert list(steps) == list(flow.steps)
    assert "current" in steps["s7"].attrib["class"]
    drawn = len([part for part in root.iter(f"{SVG}g") if "data-transition" in part.attrib])
    named = sum((part.findtext(f"{SVG}title") or "").count("→") for part in steps.values())
    assert drawn + named == 200 * ways
    assert 0 < drawn < 200
    assert any(re.fullmatch(r"t\d → s\d+", line) for line in lines_in(steps["s7"])[1:])


def test_a_step_with_a_hundred_transitions_names_a_few() -> None:
    flow = flow_of(step("hub", *(to("end", f"t{n}") for n in range(100))), step("end"))
    lines = lines_in(groups(parse(svg(flow)), "step")["hub"])
    assert lines[:3] == ["hub", "t1 → end", "t2 → end"]
    assert lines[MAX_LISTED + 1 :] == [f"and {99 - MAX_LISTED} more"]


@pytest.mark.parametrize(
    "make",
    [lambda: neighbourly(500), lambda: tangled(500, 6), lambda: tangled(90, 2), lambda: flow_of(*(
        step(f"s{n}", *(to(f"s{min(n + 1, 499)}", f"t{k}") for k in range(MANY))) for n in range(500)
    ))],
    ids=["neighbourly", "tangled", "as tangled as can be drawn", "many transitions"],
)  # fmt: skip
def test_large_flows_are_drawn_in_seconds(make: Callable[[], Flow]) -> None:
    flow = make()
    with bounded(8):
        parse(svg(flow))
        mermaid(flow)
        dot(flow)


def test_wherever_a_state_is_the_layout_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, layout = neighbourly(17), Mock(wraps=graphlay.layout)
    monkeypatch.setattr(graphlay, "layout", layout)
    drawn = {svg(flow, name) for name in (None, *flow.steps)}
    assert len(drawn) == 18
    assert layout.call_count == 1


SEEDS = form("a diagram: seeds of hashes", short=("1",), long=("1", "2"))


def test_a_diagram_is_the_same_everywhere() -> None:
    program = (
        "import hashlib; from app.diagrams.svg import svg; "
        "from tests.support.drawn_flows import expense, neighbourly, tangled; "
        "drawn = [svg(flow) for flow in (expense(), neighbourly(60), tangled(90, 2), tangled(90, 6))]; "
        "print(*(hashlib.sha256(one.encode()).hexdigest() for one in drawn))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in SEEDS
    }
    with redirect_stdout(StringIO()) as here:  # with the seed of this process
        exec(program, {})
    assert printed == {here.getvalue()}
