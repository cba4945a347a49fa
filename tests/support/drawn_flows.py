"""Flows to draw: of any shape, and large ones."""

import random
from typing import Any

import msgspec
from hypothesis import strategies as st

from app.contracts.flow import Flow
from tests.support.samples import expense_flow

texts = st.text(
    st.one_of(
        st.characters(exclude_categories=()),  # lone surrogates too
        st.sampled_from("\"'<>&#;|[](){}\\`*_-%:/\n\r\x00\x1b\u202e\ufffe"),
    ),
    max_size=30,
)


def flow_of(*steps: dict[str, Any], initial: str = "", title: str | None = None) -> Flow:
    """A flow of steps as ``step`` makes them; it begins at the first unless told otherwise."""
    named = {one["step"]: {"index": index, "service": "svc", **one} for index, one in enumerate(steps)}
    whole = {"flow": "drawn", "initialStep": initial or steps[0]["step"], "steps": named}
    return msgspec.convert({**whole, **({"title": title} if title else {})}, Flow)


def step(name: str, /, *ways: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"step": name, **members, "transitions": {way["transition"]: way for way in ways}}


def to(target: str, name: str = "go", **members: Any) -> dict[str, Any]:
    return {"transition": name, "step": target, **members}


def expense() -> Flow:
    return msgspec.convert(expense_flow(), Flow)


def tangled(steps: int, ways: int, seed: int = 1) -> Flow:
    """Every step leads to ``ways`` others, which chance names."""
    chance = random.Random(seed)
    return flow_of(
        *(
            step(f"s{n}", *(to(f"s{chance.randrange(steps)}", f"t{way}") for way in range(ways)))
            for n in range(steps)
        )
    )


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    """Flows of any shape, with titles, guards and roles of any characters."""
    count = draw(st.integers(1, 12))
    names = st.integers(0, count - 1).map("s{}".format)

    def way(number: int) -> dict[str, Any]:
        guard = draw(st.none() | texts)
        roles = draw(st.none() | st.lists(texts, max_size=3))
        return to(
            draw(names),
            f"t{number}",
            title=draw(st.none() | texts),
            explicit=draw(st.booleans()),
            reversible=draw(st.booleans()),
            guard=guard,
            roles=roles,
        )

    return flow_of(
        *(
            step(
                f"s{n}",
                *map(way, range(draw(st.integers(0, 4)))),
                title=draw(st.none() | texts),
                initial=draw(st.booleans()),
            )
            for n in range(count)
        ),
        initial=draw(names),
        title=draw(texts),
    )


def neighbourly(steps: int) -> Flow:
    """Every step leads to the next and to one nearby."""
    chance = random.Random(1)
    near = [min(steps - 1, max(0, n + chance.randint(-5, 5))) for n in range(steps)]
    return flow_of(
        *(
            step(f"s{n}", to(f"s{min(n + 1, steps - 1)}", "next"), to(f"s{near[n]}", "near"))
            for n in range(steps)
        )
    )
