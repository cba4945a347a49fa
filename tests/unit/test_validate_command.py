"""``flows validate``: every finding in a line of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from app.cli import main
from app.flow.validation import check_flow
from tests.support.corpus import BROKEN, CORPUS, EXPECTED, SOUND
from tests.support.samples import flow_dict


def validate(*files: Path) -> Result:
    return CliRunner().invoke(main, ["flows", "validate", *map(str, files)])


def written(folder: Path, raw: Any) -> Path:
    file = folder / "flow.json"
    file.write_text(json.dumps(raw))
    return file


def test_sound_definitions_leave_one_line() -> None:
    done = validate(CORPUS / "sound")
    assert (done.exit_code, done.output) == (0, f"{len(SOUND)} definitions checked, no errors.\n")


def test_each_finding_has_a_line_with_its_place_and_advice() -> None:
    done = validate(*BROKEN)
    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert len(lines) == sum(len(findings) for findings in EXPECTED.values())
    for file in BROKEN:
        for finding in EXPECTED[file.stem]:
            inside = finding["pointer"].removeprefix("/").replace("/", ".").replace("~1", "/") or "(whole)"
            marked = "warning: " if finding["severity"] == "warning" else ""
            (found,) = [
                line
                for line in lines
                if line.startswith(f"{file}: {inside}: {marked}") and finding["says"] in line
            ]
            assert "; " in found


def test_warnings_alone_are_counted_and_do_not_fail(tmp_path: Path) -> None:
    raw = flow_dict()
    raw["steps"]["a"]["module"] = raw["steps"]["b"]["module"] = "$none"
    done = validate(written(tmp_path, raw))
    assert done.exit_code == 0
    *findings, last = done.output.splitlines()
    assert all(": warning: $none is not in config.modules" in line for line in findings)
    assert (len(findings), last) == (2, "1 definition checked, no errors, 2 warnings.")


def test_a_file_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text(json.dumps(flow_dict(initialStep="x")))
    (tmp_path / "c.json").write_text('{"flow": "a", "flow": "b"}')
    (tmp_path / "d.json").write_text(json.dumps(flow_dict()))
    done = validate(tmp_path, tmp_path / "none.json")
    assert done.exit_code == 1
    lines = done.output.splitlines()
    places = [str(tmp_path / name) for name in ("a.json", "b.json", "c.json", "none.json")]
    assert [line.partition(":")[0] for line in lines] == places
    assert "initialStep: There is no step 'x'" in lines[1]


def test_what_is_printed_cannot_drive_the_terminal(tmp_path: Path) -> None:
    raw = flow_dict()
    raw["steps"]["\x1b[2J\n"] = {"index": 9, "step": "é", "service": "s", "transitions": {}}
    done = validate(written(tmp_path, raw))
    assert "\x1b" not in done.output
    assert len(done.output.splitlines()) == len(check_flow(raw))
    assert "steps.�[2J�.step: The name is 'é'" in done.output


def test_it_answers_without_loading_what_it_does_not_need() -> None:
    slow = {"app.main", "app.asgi", "motor", "beanie", "redis", "socketio", "uvicorn"}
    trusted_caller = (
        "import sys; from click.testing import CliRunner; from app.cli import main; "
        f"done = CliRunner().invoke(main, ['flows', 'validate', {str(CORPUS / 'sound')!r}]); "
        f"print(done.exit_code, sorted({slow!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", trusted_caller], capture_output=True, text=True, check=True)
    assert done.stdout == "0 []\n"
