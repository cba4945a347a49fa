"""Positions of the parts of a drawn diagram.

Labels are nodes of the graph, through which their arrows lead, so that no label covers another part.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import graphlay
from msgspec import Struct

Point = tuple[float, float]

DOT = 14.0
MAX_LINKS = 1200
MAX_LINKS_OF_A_BOX = 50
MAX_BENDS = 6000
"""Bends of long links around others. Within these bounds a layout takes about a second of one thread; nobody
could follow the lines of a larger diagram."""
CACHED_LAYOUTS = 16
"""Dimensions of the cache. A layout does not depend on the highlighted step."""
_CAREFUL_LINKS = 60
_CAREFUL_NODES = 1500
"""Up to these sizes the layout optimizes more, at a cost that grows faster than the graph."""
_ABOVE, _BELOW = ({"offset": {"side": side, "t": 0.0}} for side in ("top", "bottom"))


class Dimensions(Struct, frozen=True):
    """A width and a height in px."""

    width: float
    height: float


class Link(Struct, frozen=True):
    """An arrow between the boxes at two positions, and the size of its label.

    ``back``: it leads against the direction of the drawing.
    """

    source: int
    target: int
    label: Dimensions
    back: bool = False


class Frame(Struct, frozen=True):
    """A rectangle: its center and its size."""

    x: float
    y: float
    width: float
    height: float


class Route(Struct, frozen=True):
    """The line of a link: from its box to its label, and on to the other box."""

    before: tuple[Point, ...]
    after: tuple[Point, ...]


class Placement(Struct, frozen=True):
    """Positions of all parts; the upper left corner is at 0, 0.

    ``boxes`` are in the order of the boxes, ``labels`` and ``routes`` in that of the links. ``dots``, with
    their lines, are by the positions of their boxes.
    """

    width: float
    height: float
    boxes: list[Frame]
    labels: list[Frame]
    routes: list[Route]
    dots: dict[int, tuple[Frame, tuple[Point, ...]]]


@lru_cache(CACHED_LAYOUTS)
def layered_layout(
    boxes: tuple[Dimensions, ...], dots: tuple[int, ...], links: tuple[Link, ...]
) -> Placement | None:
    """Lay a graph out in layers, from top to bottom.

    Args:
        boxes: Their sizes.
        dots: The positions of boxes that have a dot above them.
        links: The arrows.

    Returns:
        The placement; None if there are too many links, or too many crossings.
    """
    ends = [0] * len(boxes)
    for link in links:
        ends[link.source] += 1
        ends[link.target] += 1
    if len(links) > MAX_LINKS or max(ends) > MAX_LINKS_OF_A_BOX:
        return None
    options = {
        "direction": "topbottom",
        "spacing": {"layer_gap": 26.0, "node_gap": 28.0, "dummy_gap": 22.0},
        "routing": {"bundle_parallel": False},
        "effort": "balanced" if len(links) <= _CAREFUL_LINKS else "fast",
        "limits": {"max_dummies": MAX_BENDS},
        "tuning": {"routing": {"port_relax_rounds": 0}, "coords": {"simplex_max_nodes": _CAREFUL_NODES}},
    }
    try:
        found = graphlay.layout(_graph(boxes, dots, links), options=options)
    except graphlay.GraphlayError:
        return None
    return _placement(found, len(boxes), dots, len(links))


@lru_cache(CACHED_LAYOUTS)
def tree_layout(boxes: tuple[Dimensions, ...], dots: tuple[int, ...], links: tuple[Link, ...]) -> Placement:
    """Lay a graph out as trees, with any number of boxes; ``links`` must form trees."""
    options = {"direction": "topbottom", "sibling_gap": 28.0, "subtree_gap": 28.0, "row_gap": 30.0}
    found = graphlay.layout_tree(_graph(boxes, dots, links), options=options)
    return _placement(found, len(boxes), dots, len(links))


def _graph(boxes: Sequence[Dimensions], dots: Sequence[int], links: Sequence[Link]) -> graphlay.Graph:
    """Build the graph. Nodes: boxes, labels, dots; edges: two for each link, one for each dot."""
    graph = graphlay.Graph()
    for size in (*boxes, *(link.label for link in links), *(Dimensions(DOT, DOT) for _ in dots)):
        graph.node(width=size.width, height=size.height)
    for label, link in enumerate(links, len(boxes)):
        loop = link.source == link.target
        into, out = (_BELOW, _ABOVE) if link.back else (_ABOVE, _BELOW)
        graph.edge(
            link.source,
            label,
            reverse_for_ranking=link.back and not loop,
            target_port=None if loop else into,
        )
        graph.edge(label, link.target, reverse_for_ranking=link.back, source_port=None if loop else out)
    for dot, box in enumerate(dots, len(boxes) + len(links)):
        graph.edge(dot, box)
    return graph


def _placement(found: graphlay.Layout, boxes: int, dots: Sequence[int], links: int) -> Placement:
    """Convert the layout of a graph that ``_graph`` built."""
    lines = [[(point["x"], point["y"]) for point in edge["points"]] for edge in found.edges]
    frames = [Frame(**node["center"], **node["size"]) for node in found.nodes]
    corners = [(f.x + side * f.width / 2, f.y + side * f.height / 2) for f in frames for side in (-1, 1)]
    reached = [*corners, *chain.from_iterable(lines)]
    left, top = min(x for x, _ in reached), min(y for _, y in reached)
    moved = [tuple((x - left, y - top) for x, y in line) for line in lines]
    frames = [Frame(f.x - left, f.y - top, f.width, f.height) for f in frames]
    halves = moved[: 2 * links]
    return Placement(
        width=max(x for x, _ in reached) - left,
        height=max(y for _, y in reached) - top,
        boxes=frames[:boxes],
        labels=frames[boxes : boxes + links],
        routes=[Route(before, after) for before, after in zip(halves[::2], halves[1::2], strict=True)],
        dots=dict(zip(dots, zip(frames[boxes + links :], moved[2 * links :], strict=True), strict=True)),
    )
