"""Proposes where the states of steps that are gone may go on, by what such a step has in common with those of
the new version."""

from collections.abc import Collection, Mapping, Sequence
from difflib import SequenceMatcher

from app.contracts.flow import Flow, FlowStep
from app.contracts.migration import Proposal

MOST_PAIRS = 10_000
"""Of steps that are gone and steps of the new version: for more, a person has to know."""
LEAST = 0.45
"""Less in common is no proposal."""
INDEX, PLACE, WAYS_OUT, WAYS_IN, NAME = 0.35, 0.1, 0.2, 0.2, 0.15
"""How much it counts that the index, which identifies a step in tokens, is the same; the service, module and
path; the transitions that lead out and in; the name."""
LED_ELSEWHERE = 0.5
ALIKE = 0.6
"""Parts that are less alike than this are not named as a reason."""
_ITSELF = "\0itself"
_GONE = "\0gone"


def propose(old: Flow, new: Flow, known: Mapping[str, str], gone: Collection[str]) -> list[Proposal]:
    """For each of the steps of ``old`` that are ``gone`` the likeliest one of ``new``, if there is one.
    ``known`` says where the others go on. Two that are equally likely are none: a person has to say which."""
    if len(gone) * len(new.steps) > MOST_PAIRS:
        return []
    into = _Into(old), _Into(new)
    alike = {
        name: [
            p
            for step in new.steps.values()
            if (p := _alike(old, new, old.steps[name], step, into)) is not None
        ]
        for name in gone
    }
    renamed = {name: best.to for name, found in alike.items() if (best := _likeliest(found)) is not None}
    names = {**known, **renamed}
    proposals = []
    for name, found in alike.items():
        elsewhere = _led_elsewhere(old, new, into[0].leading_to(name), name, names)
        best = _likeliest([*found, elsewhere] if elsewhere else found)
        if best is not None:
            proposals.append(best)
    return proposals


def _likeliest(proposals: Sequence[Proposal]) -> Proposal | None:
    ranked = sorted(proposals, key=lambda proposal: -proposal.confidence)
    clear = len(ranked) == 1 or (ranked and ranked[0].confidence > ranked[1].confidence)
    return ranked[0] if clear else None


class _Into:
    """The transitions that lead to each step of a flow, by their sources and names."""

    def __init__(self, flow: Flow) -> None:
        self._by_target: dict[str, list[tuple[str, str]]] = {}
        for source in flow.steps.values():
            for transition in source.transitions.values():
                way = source.step, transition.transition
                self._by_target.setdefault(transition.step, []).append(way)

    def leading_to(self, target: str) -> list[tuple[str, str]]:
        """The transitions that lead to one step."""
        return self._by_target.get(target, [])


def _alike(
    old: Flow, new: Flow, gone: FlowStep, step: FlowStep, into: tuple[_Into, _Into]
) -> Proposal | None:
    """A step that is new, if it looks like the one that is gone."""
    if step.step in old.steps:
        return None
    parts = (
        ("the same index", INDEX, float(gone.index == step.index)),
        ("the same service, module and path", PLACE, float(_place(gone) == _place(step))),
        ("the transitions out", WAYS_OUT, _likeness(_ways_out(gone, new), _ways_out(step, old))),
        (
            "the transitions in",
            WAYS_IN,
            _likeness(_ways_in(into[0], gone, new), _ways_in(into[1], step, old)),
        ),
        ("the name", NAME, SequenceMatcher(None, _plain(gone.step), _plain(step.step)).ratio()),
    )
    confidence = round(sum(weight * likeness for _, weight, likeness in parts), 2)
    if confidence < LEAST:
        return None
    reasons = [what for what, _, likeness in parts if likeness >= ALIKE]
    return Proposal(gone.step, step.step, confidence, "alike: " + ", ".join(reasons))


def _led_elsewhere(
    old: Flow, new: Flow, ways: Sequence[tuple[str, str]], gone: str, names: Mapping[str, str]
) -> Proposal | None:
    """The step to which all that led to the one that is gone leads now. ``names`` says what steps of the old
    version are in the new one."""
    ways_in = [(names.get(source), name) for source, name in ways]
    targets = {
        new.steps[source].transitions[name].step
        for source, name in ways_in
        if source is not None and name in new.steps[source].transitions
    }
    target = targets.pop() if len(targets) == 1 else None
    if target is None or target not in old.steps:
        return None
    return Proposal(gone, target, LED_ELSEWHERE, "what led there leads here now")


def _place(step: FlowStep) -> tuple[str, str | None, str | None]:
    return step.service, step.module, step.path


def _ways_out(step: FlowStep, other: Flow) -> set[tuple[str, str]]:
    """The transitions of a step, with where they lead. Steps that only one version has count as one, as they
    may be the same by another name."""
    return {(name, _known(transition.step, step, other)) for name, transition in step.transitions.items()}


def _ways_in(into: _Into, step: FlowStep, other: Flow) -> set[tuple[str, str]]:
    return {(name, _known(source, step, other)) for source, name in into.leading_to(step.step)}


def _known(name: str, step: FlowStep, other: Flow) -> str:
    if name == step.step:
        return _ITSELF
    return name if name in other.steps else _GONE


def _likeness(one: set[tuple[str, str]], other: set[tuple[str, str]]) -> float:
    return len(one & other) / len(one | other) if one | other else 1.0


def _plain(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "")
