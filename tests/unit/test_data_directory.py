"""Access to the data directory of the embedded servers."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from app.process.data_directory import DataDirectory, read_jwt_secret
from app.process.database_server import DatabaseServer, EmbeddedError
from app.process.embedded import EmbeddedServers
from config.encryption import parse_wrapping_keys
from config.settings import Settings


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


SECRETS = {"jwt": "j" * 64, "mongo": "m" * 64, "redis": "r" * 64}


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        ({"mongo": ""}, "empty or short secret"),
        ({"redis": ""}, "empty or short secret"),
        ({"jwt": ""}, "empty or short secret"),
        ({"jwt": "short"}, "empty or short secret"),
        ({"mongo": "m\nm"}, "control characters"),
        ({"redis": "r\nprotected-mode no"}, "control characters"),
        ({"jwt": "\0" * 64}, "control characters"),
        ({"mongo": None}, "cannot be read"),
    ],
)
def test_secrets_that_cannot_be_used_are_reported_with_what_to_do(
    tmp_path: Path, spoilt: dict[str, Any], says: str
) -> None:
    (tmp_path / "secrets.json").write_text(json.dumps({**SECRETS, **spoilt}))
    with pytest.raises(EmbeddedError, match=rf"secrets.json .*{says}.*[Rr]estore the file"):
        DataDirectory(tmp_path).secrets()


def test_lost_secrets_are_not_taken_for_a_new_directory(tmp_path: Path) -> None:
    assert DataDirectory(tmp_path).secrets() is None
    (tmp_path / "mongodb").mkdir()
    (tmp_path / "mongodb" / "WiredTiger.wt").touch()
    for read in (DataDirectory(tmp_path).secrets, lambda: read_jwt_secret(tmp_path)):
        with pytest.raises(EmbeddedError, match=r"secrets.json is missing.*secret that signs tokens"):
            read()


@pytest.mark.parametrize(
    "name",
    [
        *("lock", "servers.lock", "running.json", "database.json", "secrets.json", "mongodb"),
        pytest.param("encryption.json", marks=pytest.mark.long),  # is read when both servers run
    ],
)
def test_what_stands_in_the_place_of_another_is_an_error_with_its_path(tmp_path: Path, name: str) -> None:
    place = tmp_path / "data" / name
    place.parent.mkdir(mode=0o700)
    if name == "mongodb":
        place.touch()
    else:
        place.mkdir()
    servers = EmbeddedServers(place.parent)
    with pytest.raises(EmbeddedError, match=str(place.parent)):
        servers.start(Settings(_env_file=None))
    servers.stop()
    assert not any(server.running for server in servers.servers.values())


def test_an_error_of_the_system_is_one_line_with_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: DatabaseServer, storage: Path) -> None:
        raise OSError(28, "No space left on device", str(storage))

    monkeypatch.setattr(DatabaseServer, "configure", full)
    servers = EmbeddedServers(tmp_path / "data")
    with pytest.raises(EmbeddedError, match=r"data/mongodb cannot be used: No space left on device"):
        servers.start(Settings(_env_file=None))
    assert servers.directory.acquire(), "it was released"
    servers.directory.release()


def test_an_encryption_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    assert directory.encryption_keys() == [], "a directory of an older version"
    made = directory.encryption_keys(create=True)
    assert len(parse_wrapping_keys(",".join(made))) == 1
    assert directory.encryption_keys() == directory.encryption_keys(create=True) == made
    assert mode_of(tmp_path / "encryption.json") == 0o600


@pytest.mark.parametrize("text", ['{"keys": []}', '{"keys": ["hidden"]}', '{"keys": [1]}', "hidden"])
def test_an_unusable_file_of_encryption_keys_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "encryption.json").write_text(text)
    with pytest.raises(EmbeddedError, match=r"encryption.json.*restore the file") as refusal:
        DataDirectory(tmp_path).encryption_keys(create=True)
    assert "hidden" not in str(refusal.value)
    assert (tmp_path / "encryption.json").read_text() == text
