"""Key services that fail or refuse: an outage, never a damaged key, and nothing of a secret in the log."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import requests
from aiohttp import web

from app.contracts.errors import KeyServiceUnavailableError
from app.contracts.ports.ciphers import PayloadText
from app.contracts.ports.keys import WrappingKey
from app.crypto.data_keys import DataKeys
from app.crypto.payload_cipher import AesPayloadCipher
from app.crypto.wrapping import WrappingKeys
from app.kit.clock import SystemClock
from app.outbound.key_services.aws import AwsKmsKey
from app.outbound.key_services.gcp import GcpKmsKey
from app.outbound.key_services.opening import open_service_key
from app.outbound.key_services.vault import VaultKey
from config.encryption import WrappingKeySetting, create_wrapping_key, parse_wrapping_keys
from tests.support.fake_data_keys import FakeDataKeyStore
from tests.support.key_services import (
    VAULT_TOKEN,
    KeyServices,
    aws_refusal,
    gcp_refusal,
    serving_keys,
    vault_refusal,
)
from tests.support.log_events import LogEvents

DATA_KEY = bytes(range(32))
RESOURCE = "projects/p/locations/eu/keyRings/r/cryptoKeys/k"
FAILS = pytest.mark.expected_logs("key service failed")


@pytest.fixture
async def services(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KeyServices]:
    async with serving_keys() as services:
        set_up(monkeypatch, services.url)
        yield services


def set_up(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("VAULT_TOKEN", VAULT_TOKEN)


def keys_at(url: str) -> list[WrappingKey]:
    """A key of each service."""
    return [
        AwsKmsKey("alias/flow"),
        GcpKmsKey(RESOURCE, f"{url}/v1", requests.Session),
        VaultKey(f"{url}/v1/transit/keys/flow"),
    ]


REFUSALS = {
    "awskms": [
        aws_refusal("AccessDeniedException"),
        aws_refusal("DisabledException"),
        aws_refusal("KMSInvalidStateException"),
    ],
    "gcpkms": [
        gcp_refusal("PERMISSION_DENIED", 403),
        gcp_refusal("FAILED_PRECONDITION"),
        web.Response(text="hidden"),
        web.json_response({"plaintext": "hidden!"}),
        web.json_response({}),
    ],
    "vault": [
        vault_refusal(403, "hidden"),
        vault_refusal(400, "encryption key not found"),
        vault_refusal(503, "Vault is sealed"),
        web.Response(text="hidden"),
        web.json_response({"data": {}}),
        web.json_response({"data": {"plaintext": "hidden!"}}),
    ],
}


@FAILS
async def test_every_refusal_but_that_of_a_changed_key_is_an_outage(
    services: KeyServices, log_events: LogEvents
) -> None:
    for key in keys_at(services.url):
        wrapped = await key.wrap(DATA_KEY, "user:ada")
        refusals = REFUSALS[key.id.partition(":")[0]]
        for refusal in refusals:
            services.refuse = [refusal]
            with pytest.raises(KeyServiceUnavailableError) as outage:
                await key.unwrap(wrapped, "user:ada")
            assert key.id in outage.value.advice
            assert "hidden" not in outage.value.advice
        assert await key.unwrap(wrapped, "user:ada") == DATA_KEY
    assert "hidden" not in str(vars(log_events))


@FAILS
async def test_a_service_that_is_away_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        set_up(monkeypatch, url)
        for key in keys_at(url):
            with pytest.raises(KeyServiceUnavailableError, match="key service fails"):
                await key.wrap(DATA_KEY, "user:ada")


async def test_no_service_sees_an_owner_or_is_called_for_each_message(services: KeyServices) -> None:
    for key in keys_at(services.url):
        services.requests.clear()
        store = FakeDataKeyStore()
        cipher = AesPayloadCipher(DataKeys(store, WrappingKeys([key]), SystemClock()))
        text = PayloadText("ada", "loop:ada", "payload", "{}")
        for _ in range(20):
            await cipher.seal_many([text] * 5)
            await cipher.seal_many([text], fresh=True)
        assert len(services.requests) == 1, "to wrap the new key"
        assert "ada" not in str(services.requests)
        again = AesPayloadCipher(DataKeys(store, WrappingKeys([key]), SystemClock()))
        for _ in range(20):
            await again.seal_many([text], fresh=True)
        assert len(services.requests) == 2, "to unwrap it once"


async def test_the_token_of_vault_is_read_again_at_each_call(
    services: KeyServices, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{VAULT_TOKEN}\n")
    monkeypatch.delenv("VAULT_TOKEN")
    monkeypatch.setenv("VAULT_TOKEN_FILE", str(file))
    key = VaultKey(f"{services.url}/v1/transit/keys/flow")
    wrapped = await key.wrap(DATA_KEY, "user:ada")
    assert await key.unwrap(wrapped, "user:ada") == DATA_KEY


@FAILS
async def test_a_token_file_that_is_missing_is_an_outage(
    services: KeyServices, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("VAULT_TOKEN")
    monkeypatch.setenv("VAULT_TOKEN_FILE", str(tmp_path / "missing"))
    with pytest.raises(KeyServiceUnavailableError, match="FileNotFoundError"):
        await VaultKey(f"{services.url}/v1/transit/keys/flow").wrap(DATA_KEY, "user:ada")


def test_entries_name_keys_of_services() -> None:
    names = {
        "awskms": ["alias/flow", "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab"],
        "gcpkms": [RESOURCE],
        "vault": ["https://vault.example:8200/v1/transit/keys/flow", "http://127.0.0.1:8200/v1/a/b/keys/k"],
    }
    for kind, accepted in names.items():
        for name in accepted:
            local, entry = parse_wrapping_keys(f"{create_wrapping_key()}, {kind}:{name}")
            assert (local.kind, entry) == ("local", WrappingKeySetting(kind, name=name))
            assert open_service_key(entry).id == f"{kind}:{name}"
    refused = {
        "awskms": ["", "a b", "key?x"],
        "gcpkms": ["", "projects/p", f"{RESOURCE}/cryptoKeyVersions/1"],
        "vault": [
            "",
            "http://vault.example/v1/transit/keys/k",
            "https://u:hidden@h/v1/t/keys/k",
            "https://h/v1/t",
        ],
    }
    for kind, wrong in refused.items():
        for name in wrong:
            with pytest.raises(ValueError, match=f"entry 1 must be {kind}: and") as refusal:
                parse_wrapping_keys(f"{kind}:{name}")
            assert "hidden" not in str(refusal.value)
