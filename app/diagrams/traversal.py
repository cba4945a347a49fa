"""Searches along the arrows of a picture."""

from collections import deque

from app.diagrams.model import Picture


def back_arrows(picture: Picture) -> frozenset[int]:
    """The positions of the arrows that lead back to where one came from: without them there is no circle.
    Steps that come first in the flow are visited first."""
    leaving = _leaving(picture)
    entered: set[int] = set()
    done: set[int] = set()
    found = set()
    for root in _roots(picture):
        if root in entered:
            continue
        entered.add(root)
        path = [(root, iter(leaving[root]))]
        while path:
            box, rest = path[-1]
            for target, arrow in rest:
                if target not in entered:
                    entered.add(target)
                    path.append((target, iter(leaving[target])))
                    break
                if target not in done:
                    found.add(arrow)
            else:
                done.add(box)
                path.pop()
    return frozenset(found)


def spanning_arrows(picture: Picture) -> frozenset[int]:
    """The positions of arrows that make trees: the shortest ways from where the flow begins or may begin,
    then from steps that these do not reach."""
    leaving = _leaving(picture)
    reached = {position for position, box in enumerate(picture.boxes) if box.way_in is not None}
    waiting = deque(box for box in _roots(picture) if box in reached)
    found = set()
    for root in (None, *_roots(picture)):
        if root is not None and root not in reached:
            reached.add(root)
            waiting.append(root)
        while waiting:
            for target, arrow in leaving[waiting.popleft()]:
                if target not in reached:
                    reached.add(target)
                    found.add(arrow)
                    waiting.append(target)
    return frozenset(found)


def _leaving(picture: Picture) -> list[list[tuple[int, int]]]:
    """By box, the targets of its arrows with these, both by their positions; sorted."""
    leaving: list[list[tuple[int, int]]] = [[] for _ in picture.boxes]
    for position, arrow in enumerate(picture.arrows):
        leaving[arrow.source].append((arrow.target, position))
    return [sorted(arrows) for arrows in leaving]


def _roots(picture: Picture) -> list[int]:
    """All boxes: where the flow begins, where it may begin, the others."""
    order = ("start", "entry", None)
    return sorted(range(len(picture.boxes)), key=lambda box: order.index(picture.boxes[box].way_in))
