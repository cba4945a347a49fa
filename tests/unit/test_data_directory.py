"""Who may read the data directory of the embedded servers."""

import stat
from pathlib import Path

import pytest

from app.process.data_directory import DataDirectory
from app.process.database_server import EmbeddedError


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_directory_is_its_owners_alone(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "a" / "data")
    assert directory.acquire()
    assert mode_of(directory.path) == 0o700
    directory.release()


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o770, 0o711, 0o777])
@pytest.mark.parametrize("holds", ["", "secrets.json", "database.json", "mongodb/WiredTiger.wt"])
def test_a_directory_that_others_may_enter_is_tightened(tmp_path: Path, mode: int, holds: str) -> None:
    data = tmp_path / "data"
    (data / holds).parent.mkdir(parents=True, exist_ok=True)
    data.mkdir(exist_ok=True)
    if holds:
        (data / holds).touch()
    data.chmod(mode)
    directory = DataDirectory(data)
    assert directory.acquire()
    assert mode_of(data) == 0o700
    directory.release()


def test_a_directory_with_other_files_is_left_as_it_is(tmp_path: Path) -> None:
    data = tmp_path / "project"
    data.mkdir()
    (data / "notes.txt").touch()
    data.chmod(0o755)
    with pytest.raises(EmbeddedError, match=r"holds other files.*mode 0755.*chmod 700"):
        DataDirectory(data).acquire()
    assert [file.name for file in data.iterdir()] == ["notes.txt"]
    assert mode_of(data) == 0o755
    data.chmod(0o700)
    directory = DataDirectory(data)
    assert directory.acquire()
    directory.release()
