"""The configuration of a flow provider: what it takes, and every fault of what it does not."""

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from app.contracts.errors import InvalidRequestError
from app.contracts.provider import FlowProviderConfig, ProviderAuthentication
from app.flow_provider import check_provider_config, make_flow_provider

URL = "https://flows.example.org/api/flows"


def test_the_references_example_is_taken() -> None:
    given = {"source": "database", "connectionString": "mongodb://h/flows", "cacheTimeout": 300000}
    checked = check_provider_config(given)
    assert checked == FlowProviderConfig("database", connection_string="mongodb://h/flows")
    assert check_provider_config(checked) == checked
    assert (
        msgspec.json.decode(b'{"source": "file", "filePath": "f"}', type=FlowProviderConfig).file_path == "f"
    )


@pytest.mark.parametrize(
    "config",
    [
        {"source": "database", "connectionString": "mongodb+srv://u:p@h.example.org/?x=y"},
        {"source": "database", "connectionString": "mongodb://a:1,b:2/flows?replicaSet=r"},
        {"source": "file", "filePath": "config/flows", "cacheTimeout": 0},
        {"source": "remote", "remoteUrl": URL},
        {"source": "remote", "remoteUrl": URL, "authentication": {"type": "basic", "credentials": "u:p"}},
        {"source": "remote", "remoteUrl": URL, "authentication": {"type": "apikey", "credentials": "X:k"}},
        {"source": "hybrid", "filePath": "f"},
        {"source": "hybrid", "filePath": "f", "remoteUrl": URL, "connectionString": "mongodb://h"},
    ],
)
def test_what_is_taken(config: dict[str, Any]) -> None:
    assert check_provider_config(config).source == config["source"]


@pytest.mark.parametrize(
    ("config", "faults"),
    [
        ({}, {"": "is a required property"}),
        (None, {"": "has the wrong type"}),
        ("file", {"": "has the wrong type"}),
        ({"source": "\ud800"}, {"": "has the wrong type"}),
        ([], {"": "has the wrong type"}),
        (
            FlowProviderConfig("file", file_path=cast(Any, Path("flows"))),
            {"": "must contain only values of JSON"},
        ),
        ({"source": "ftp"}, {"/source": "must be database, file, remote or hybrid"}),
        ({"source": "database"}, {"/connectionString": "is required for the source 'database'"}),
        ({"source": "file"}, {"/filePath": "is required"}),
        ({"source": "file", "filePath": ""}, {"/filePath": "must be a file or a folder"}),
        ({"source": "remote"}, {"/remoteUrl": "is required"}),
        ({"source": "hybrid"}, {"": "hybrid requires at least one of connectionString, filePath, remoteUrl"}),
        ({"source": "file", "file_path": "f"}, {"": "file_path"}),
        (
            {"source": "file", "filePath": "f", "cacheTimeout": -1, "remoteUrl": 1},
            {"/cacheTimeout": "less than the minimum", "/remoteUrl": "wrong type"},
        ),
        (
            {"source": "file", "remoteUrl": URL},
            {"/filePath": "is required", "/remoteUrl": "is not allowed for the source 'file'"},
        ),
        (
            {"source": "database", "connectionString": "postgres://h"},
            {"/connectionString": "must be mongodb://"},
        ),
        (
            {"source": "database", "connectionString": "mongodb://u:p:q@h:x/"},
            {"/connectionString": "is not a URL of MongoDB"},
        ),
        ({"source": "remote", "remoteUrl": "ftp://h"}, {"/remoteUrl": "must be a URL such as"}),
        (
            {
                "source": "remote",
                "remoteUrl": "http://h/x",
                "authentication": {"type": "bearer", "credentials": "with spaces"},
            },
            {"/authentication/credentials": "must be a token", "/authentication": "over https only"},
        ),
        (
            {"source": "hybrid", "filePath": "f", "authentication": {"type": "bearer", "credentials": "t"}},
            {"/authentication": "requires a remoteUrl"},
        ),
        ({"source": "remote", "remoteUrl": URL, "authentication": {"type": "x"}}, {"/authentication": ""}),
    ],
)
def test_every_fault_is_reported_at_its_place(config: Any, faults: dict[str, str]) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        make_flow_provider(config)
    found = {fault.pointer: fault.message for fault in refusal.value.faults}
    for pointer, says in faults.items():
        assert says in found[pointer]


def test_secrets_are_neither_shown_nor_reported() -> None:
    config = FlowProviderConfig(
        "remote",
        remote_url="https://h/?key=hidden",
        authentication=ProviderAuthentication("bearer", "hidden"),
    )
    assert "hidden" not in repr(config) + repr(config.authentication)
    wrong: Any
    for wrong in (
        {"source": "remote", "remoteUrl": URL, "authentication": "bearer:hidden"},
        {"source": "remote", "remoteUrl": ["hidden"]},
        {"source": "database", "connectionString": "http://u:hidden@h"},
        {"source": "remote", "remoteUrl": "https://u:hidden@h"},
        {"source": "remote", "remoteUrl": URL, "authentication": "bearer:hidden" + "x" * 500},
        {"source": "remote", "remoteUrl": URL, "authentication": ["hidden" * 100]},
        {"source": "remote", "remoteUrl": URL, "authentication": {"type": "hidden", "credentials": "t"}},
        {"source": "database", "connectionString": ["hidden" * 100]},
        "hidden" * 200,
    ):
        with pytest.raises(InvalidRequestError) as refusal:
            make_flow_provider(wrong)
        assert "hidden" not in str(refusal.value) + str(refusal.value.details)
