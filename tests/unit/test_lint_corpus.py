"""A corpus of definitions: the check finds every fault that was put into the broken ones, with its place, and
nothing else; the sound ones it lets pass in silence."""

from pathlib import Path

import msgspec
import pytest

from app.contracts.errors import InvalidDefinitionError
from app.contracts.flow import Flow
from app.flow.validation import check_flow, parse_flow
from tests.support.corpus import BROKEN, EXPECTED, SOUND, read


def test_the_corpus_is_whole() -> None:
    assert EXPECTED.keys() == {file.stem for file in BROKEN}
    assert len(BROKEN) >= 120
    assert len(SOUND) >= 20
    assert all(EXPECTED.values())


@pytest.mark.parametrize("file", BROKEN, ids=lambda file: file.stem)
def test_a_broken_definition_has_exactly_its_findings(file: Path) -> None:
    expected = EXPECTED[file.stem]
    found = check_flow(read(file))
    assert [(f.severity, f.pointer) for f in found] == [(e["severity"], e["pointer"]) for e in expected]
    for finding, wanted in zip(found, expected, strict=True):
        assert wanted["says"] in finding.message
        assert finding.advice


@pytest.mark.parametrize("file", BROKEN, ids=lambda file: file.stem)
def test_a_definition_is_refused_for_its_errors_alone(file: Path) -> None:
    raw = read(file)
    errors = [finding for finding in check_flow(raw) if finding.severity == "error"]
    if not errors:
        flow, warnings = parse_flow(raw)
        assert flow == msgspec.convert(raw, Flow)
        assert warnings == check_flow(raw)
        return
    with pytest.raises(InvalidDefinitionError) as refusal:
        parse_flow(raw)
    reported = [(fault.pointer, fault.message) for fault in refusal.value.faults]
    assert reported == [(error.pointer, f"{error.message}; {error.advice}") for error in errors]


@pytest.mark.parametrize("file", SOUND, ids=lambda file: file.stem)
def test_a_sound_definition_passes_in_silence(file: Path) -> None:
    raw = read(file)
    assert check_flow(raw) == []
    flow, warnings = parse_flow(raw)
    assert warnings == []
    assert flow.steps.keys() == raw["steps"].keys()
