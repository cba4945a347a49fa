"""Proposals for the mapping of removed steps, by their similarity to the steps of the new version."""

from collections.abc import Collection, Mapping, Sequence
from difflib import SequenceMatcher

from app.contracts.flow import Flow, FlowStep
from app.contracts.migration import Proposal

MAX_PAIRS = 10_000
"""Pairs of removed steps and steps of the new version up to which proposals are computed."""
MIN_CONFIDENCE = 0.45
"""Confidence from which a step is proposed."""
INDEX, REFERENCES, TRANSITIONS_OUT, TRANSITIONS_IN, NAME = 0.35, 0.1, 0.2, 0.2, 0.15
"""Weights of the similarity: the index, which identifies a step in tokens; service, module and path; the
transitions that lead out and in; the name."""
REDIRECTED_CONFIDENCE = 0.5
"""Confidence of a step to which all transitions lead that led to the removed one."""
MIN_NAMED_LIKENESS = 0.6
"""Likeness from which a part is named as a reason."""
_ITSELF = "\0itself"
_MISSING = "\0missing"


def propose(old: Flow, new: Flow, known: Mapping[str, str], removed: Collection[str]) -> list[Proposal]:
    """Propose for each removed step the most similar step of the new version, if there is one.

    Args:
        old: The old version of the flow.
        new: The new version.
        known: The steps of the old version that have a target, with their targets.
        removed: The steps of the old version that have none.

    Returns:
        At most one proposal for each removed step; none if two candidates are equally likely.
    """
    if len(removed) * len(new.steps) > MAX_PAIRS:
        return []
    incoming = _IncomingTransitions(old), _IncomingTransitions(new)
    candidates = {name: _similar_steps(old, new, old.steps[name], incoming) for name in removed}
    names = dict(known)
    for name, similar in candidates.items():
        best = _likeliest(similar)
        if best is not None:
            names[name] = best.to
    proposals = []
    for name, similar in candidates.items():
        redirected = _redirected(old, new, incoming[0].leading_to(name), name, names)
        best = _likeliest([*similar, redirected] if redirected else similar)
        if best is not None:
            proposals.append(best)
    return proposals


def _likeliest(proposals: Sequence[Proposal]) -> Proposal | None:
    ranked = sorted(proposals, key=lambda proposal: -proposal.confidence)
    clear = len(ranked) == 1 or (ranked and ranked[0].confidence > ranked[1].confidence)
    return ranked[0] if clear else None


class _IncomingTransitions:
    """The transitions that lead to each step of a flow, by their sources and names."""

    def __init__(self, flow: Flow) -> None:
        self._by_target: dict[str, list[tuple[str, str]]] = {}
        for source in flow.steps.values():
            for transition in source.transitions.values():
                leading = source.step, transition.transition
                self._by_target.setdefault(transition.step, []).append(leading)

    def leading_to(self, target: str) -> list[tuple[str, str]]:
        """Return the transitions that lead to a step, by their sources and names."""
        return self._by_target.get(target, [])


def _similar_steps(
    old: Flow, new: Flow, removed: FlowStep, incoming: tuple[_IncomingTransitions, _IncomingTransitions]
) -> list[Proposal]:
    found = []
    for step in new.steps.values():
        proposal = _similar(old, new, removed, step, incoming)
        if proposal is not None:
            found.append(proposal)
    return found


def _similar(
    old: Flow,
    new: Flow,
    removed: FlowStep,
    step: FlowStep,
    incoming: tuple[_IncomingTransitions, _IncomingTransitions],
) -> Proposal | None:
    """Propose a new step if it is similar to the removed one."""
    if step.step in old.steps:
        return None
    parts = (
        ("the same index", INDEX, float(removed.index == step.index)),
        (
            "the same service, module and path",
            REFERENCES,
            float(_references(removed) == _references(step)),
        ),
        (
            "the transitions out",
            TRANSITIONS_OUT,
            _likeness(_transitions_out(removed, new), _transitions_out(step, old)),
        ),
        (
            "the transitions in",
            TRANSITIONS_IN,
            _likeness(_transitions_in(incoming[0], removed, new), _transitions_in(incoming[1], step, old)),
        ),
        ("the name", NAME, SequenceMatcher(None, _spelling(removed.step), _spelling(step.step)).ratio()),
    )
    confidence = round(sum(weight * likeness for _, weight, likeness in parts), 2)
    if confidence < MIN_CONFIDENCE:
        return None
    reasons = [what for what, _, likeness in parts if likeness >= MIN_NAMED_LIKENESS]
    return Proposal(removed.step, step.step, confidence, "alike: " + ", ".join(reasons))


def _redirected(
    old: Flow, new: Flow, leading: Sequence[tuple[str, str]], removed: str, names: Mapping[str, str]
) -> Proposal | None:
    """Propose the step to which all transitions lead now that led to the removed one.

    ``names`` are the steps of the new version by those of the old one.
    """
    transitions_in = [(names.get(source), name) for source, name in leading]
    targets = {
        new.steps[source].transitions[name].step
        for source, name in transitions_in
        if source is not None and name in new.steps[source].transitions
    }
    target = targets.pop() if len(targets) == 1 else None
    if target is None or target not in old.steps:
        return None
    return Proposal(removed, target, REDIRECTED_CONFIDENCE, "the transitions that led there lead here now")


def _references(step: FlowStep) -> tuple[str, str | None, str | None]:
    return step.service, step.module, step.path


def _transitions_out(step: FlowStep, other: Flow) -> set[tuple[str, str]]:
    """Return the transitions of a step with their targets.

    Steps that only one version has count as the same step, as they may be renamed.
    """
    return {(name, _known(transition.step, step, other)) for name, transition in step.transitions.items()}


def _transitions_in(incoming: _IncomingTransitions, step: FlowStep, other: Flow) -> set[tuple[str, str]]:
    return {(name, _known(source, step, other)) for source, name in incoming.leading_to(step.step)}


def _known(name: str, step: FlowStep, other: Flow) -> str:
    if name == step.step:
        return _ITSELF
    return name if name in other.steps else _MISSING


def _likeness(one: set[tuple[str, str]], other: set[tuple[str, str]]) -> float:
    return len(one & other) / len(one | other) if one | other else 1.0


def _spelling(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "")
