"""Tokens as identity providers write them, through both interfaces, with the settings of the guide."""

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from app.asgi import token_verifier
from app.auth.key_sources import DISCOVERY_PATH
from app.contracts.callers import ADMIN, READ, SERVICE
from config.settings import load_settings
from realtime.gateway.socketio_library import socketio
from tests.support.documentation import block
from tests.support.doors import Doors, Request
from tests.support.envelopes import PUBLIC_KEY, auth, envelope_token
from tests.support.identity import OTHER_RSA_KEY, RSA_KEY, jwks, public_jwk, signed
from tests.support.remotes import RemoteServer
from tests.support.rig import Rig
from tests.support.samples import flow_dict

GUIDE = "docs/guides/identity-providers.md"
START = Request("POST", "/api/flow/loop/start", {}, {}, {})
GO = Request("POST", "/api/flow/loop/transition/go", {}, {}, {})
SET = Request("PUT", "/api/flow/loop/state", {"userId": "bob"}, {"flow": "loop", "step": "a"}, {})


class Provider(NamedTuple):
    """An identity provider: what it publishes where, and the claims of its tokens."""

    host: str
    issuer: str
    keys: str
    audience: Any
    user: dict[str, Any]
    approver: dict[str, Any]
    back_end: dict[str, Any]
    user_id: str
    groups: set[str]
    algorithms: list[str] = ["RS256"]


OID = "00000000-0000-0000-0000-0000000000aa"
TENANT = "00000000-0000-0000-0000-000000000001"
FLOWS = "00000000-0000-0000-0000-0000000000f1"
_KEYCLOAK = {
    "typ": "Bearer",
    "azp": "shop-page",
    "sid": "7d0b1c7e",
    "acr": "1",
    "allowed-origins": ["https://shop.example.org"],
    "scope": "openid profile email",
    "email_verified": True,
    "preferred_username": "ada",
}
_ACCOUNT = {"account": {"roles": ["manage-account", "view-profile"]}}
KEYCLOAK = Provider(
    host="https://keycloak.example.org",
    issuer="https://keycloak.example.org/realms/shop",
    keys="/realms/shop/protocol/openid-connect/certs",
    audience=["flows", "account"],
    user={
        **_KEYCLOAK,
        "sub": "f3c1",
        "realm_access": {"roles": ["offline_access", "default-roles-shop"]},
        "resource_access": _ACCOUNT,
        "groups": ["/finance/eu", "/it"],
    },
    approver={
        **_KEYCLOAK,
        "sub": "f3c1",
        "realm_access": {"roles": ["offline_access"]},
        "resource_access": {**_ACCOUNT, "flows": {"roles": ["approver"]}},
        "groups": ["/finance/eu", "/it"],
    },
    back_end={
        "sub": "9a4e",
        "azp": "orders",
        "client_id": "orders",
        "preferred_username": "service-account-orders",
        "scope": "profile flow:service",
        "realm_access": {"roles": ["approver"]},
    },
    user_id="f3c1",
    groups={"/finance/eu", "/it"},
    algorithms=["PS384", "RS384", "EdDSA", "ES384", "HS256", "HS512", "ES256", "RS256", "HS384", "none"],
)
AUTH0 = Provider(
    host="https://shop.eu.auth0.com",
    issuer="https://shop.eu.auth0.com/",
    keys="/.well-known/jwks.json",
    audience=["https://flows.example.org/", "https://shop.eu.auth0.com/userinfo"],
    user={
        "sub": "auth0|65f0a1b2",
        "azp": "kQ1x",
        "scope": "openid profile",
        "permissions": ["read:orders"],
        "https://flows.example.org/roles": ["clerk"],
        "https://flows.example.org/groups": ["finance"],
    },
    approver={
        "sub": "auth0|65f0a1b2",
        "scope": "openid profile",
        "permissions": ["read:orders"],
        "https://flows.example.org/roles": ["clerk", "approver"],
        "https://flows.example.org/groups": ["finance"],
    },
    back_end={
        "sub": "kQ1x@clients",
        "gty": "client-credentials",
        "azp": "kQ1x",
        "scope": "flow:service",
        "permissions": ["flow:service"],
        "https://flows.example.org/roles": "approver",
    },
    user_id="auth0|65f0a1b2",
    groups={"finance"},
    algorithms=["HS256", "RS256", "PS256"],
)
_ENTRA = {"tid": TENANT, "ver": "2.0", "azp": "a1", "aio": "AVQA", "rh": "0.A", "uti": "u", "azpacr": "1"}
ENTRA = Provider(
    host="https://login.microsoftonline.com",
    issuer=f"https://login.microsoftonline.com/{TENANT}/v2.0",
    keys=f"/{TENANT}/discovery/v2.0/keys",
    audience=FLOWS,
    user={
        **_ENTRA,
        "oid": OID,
        "sub": "pairwise-1",
        "name": "Ada",
        "preferred_username": "ada@example.org",
        "scp": "Flows.Use User.Read",
        "groups": ["11111111-1111-1111-1111-111111111111"],
    },
    approver={
        **_ENTRA,
        "oid": OID,
        "sub": "pairwise-1",
        "scp": "Flows.Use",
        "roles": ["approver"],
        "groups": ["11111111-1111-1111-1111-111111111111"],
    },
    back_end={**_ENTRA, "oid": "b2", "sub": "b2", "idtyp": "app", "roles": ["flow:service", "approver"]},
    user_id=OID,
    groups={"11111111-1111-1111-1111-111111111111"},
)
PROVIDERS = {"Keycloak": KEYCLOAK, "Auth0": AUTH0, "Microsoft Entra": ENTRA}


@pytest.fixture
async def server() -> AsyncIterator[RemoteServer]:
    server = await RemoteServer().start()
    yield server
    await server.stop()


async def doors_with(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Doors:
    """Return a service whose tokens are checked as the settings say, with a flow that needs a role."""
    monkeypatch.chdir(folder)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    rig = Rig()
    flow = flow_dict()
    flow["steps"]["a"]["transitions"]["go"]["roles"] = ["approver"]
    await rig.service.create_flow(flow)
    return Doors(rig, token_verifier(load_settings()))


def settings_in(guide: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in guide.splitlines())


async def publish(
    provider: Provider, server: RemoteServer, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> tuple[Doors, Callable[..., str]]:
    """Publish the documents of a provider, and return a service and the issue of tokens."""
    there = provider.issuer.replace(provider.host, server.origin)
    configuration = {
        "issuer": there,
        "jwks_uri": server.url(provider.keys),
        "id_token_signing_alg_values_supported": provider.algorithms,
        "authorization_endpoint": f"{server.origin}/authorize",
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
    }
    path = provider.issuer.removeprefix(provider.host).rstrip("/")
    server.gives(configuration, path + DISCOVERY_PATH)
    usual = public_jwk(RSA_KEY, "k1", use="sig", alg="RS256", x5t="abc", x5c=["MIIC"])
    server.gives(jwks(public_jwk(OTHER_RSA_KEY, "e1", use="enc", alg="RSA-OAEP"), usual), provider.keys)
    settings = settings_in(block(GUIDE, "sh", provider.host))
    settings["FLOW_OIDC_ISSUER"] = settings["FLOW_OIDC_ISSUER"].replace(provider.host, server.origin)
    doors = await doors_with(settings, monkeypatch, folder)

    def issue(claims: dict[str, Any], key: Any = RSA_KEY, key_id: str = "k1", **changes: Any) -> str:
        now = int(time.time())
        whole = {
            "iss": there,
            "aud": provider.audience,
            "iat": now,
            "nbf": now,
            "jti": "j",
            **claims,
            **changes,
        }
        return signed(whole, key, key_id, "RS256")

    return doors, issue


async def statuses(doors: Doors, token: str, *requests: Request) -> list[int]:
    return [(await doors.send(token, request)).status_code for request in requests]


@pytest.mark.parametrize("name", PROVIDERS)
async def test_users_with_and_without_a_role(
    name: str, server: RemoteServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider = PROVIDERS[name]
    doors, issue = await publish(provider, server, monkeypatch, tmp_path)
    user, approver = issue(provider.user), issue(provider.approver)
    assert await statuses(doors, user, START, GO, SET) == [201, 403, 403]
    go = ("flow-transition", {"flowId": "loop", "transition": "go"})
    refused = await doors.call(user, go)
    assert refused["error"].code == "INSUFFICIENT_PERMISSIONS"
    found = await doors.call(approver, ("flow-state", {"flowId": "loop"}), go)
    assert (found["ok"], found["state"].user_id, found["state"].step) == (True, provider.user_id, "b")
    caller = await doors.verifier.verify(approver)
    assert caller.groups == provider.groups
    assert "approver" in caller.roles
    assert not caller.scopes & {ADMIN, SERVICE, READ}


@pytest.mark.parametrize("name", PROVIDERS)
async def test_back_ends_act_for_users(
    name: str, server: RemoteServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider = PROVIDERS[name]
    doors, issue = await publish(provider, server, monkeypatch, tmp_path)
    back_end = issue(provider.back_end)
    for_bob = [request._replace(query={"userId": "bob"}) for request in (START, GO)]
    assert await statuses(doors, back_end, *for_bob) == [201, 200]
    found = await doors.call(back_end, ("flow-state", {"flowId": "loop", "userId": "bob"}))
    assert found["state"].step == "b"
    assert await statuses(doors, back_end, Request("GET", "/api/admin/statistics", {}, None, {})) == [403]


@pytest.mark.parametrize("name", PROVIDERS)
async def test_tokens_for_others_are_refused_at_both_doors(
    name: str, server: RemoteServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider = PROVIDERS[name]
    doors, issue = await publish(provider, server, monkeypatch, tmp_path)
    refused = [
        issue(provider.user, aud="account"),
        issue(provider.user, aud=["account", "other"]),
        issue(provider.user, aud=None),
        issue(provider.user, iss=provider.issuer),
        issue(provider.user, iss=server.origin + "/realms/other"),
        issue(provider.user, exp=int(time.time()) - 10),
        issue(provider.user, nbf=int(time.time()) + 60),
        issue(provider.user, key=OTHER_RSA_KEY),
        issue(provider.user, key=OTHER_RSA_KEY, key_id="e1"),
    ]
    for token in refused:
        assert await statuses(doors, token, START) == [401]
        with pytest.raises(socketio.exceptions.ConnectionRefusedError) as refusal:
            await doors.call(token)
        assert refusal.value.args[0] == "AUTHENTICATION_REQUIRED"


async def test_the_settings_of_the_guide_for_envelopes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = settings_in(block(GUIDE, "sh", PUBLIC_KEY))
    doors = await doors_with(settings, monkeypatch, tmp_path)
    forever = f"ED25519-BASIC-TOKEN {envelope_token(auth(groups=['finance']), ttl=None)}"
    header = {"Authorization": forever}
    started = await doors.send(forever, START._replace(headers=header))
    assert (started.status_code, started.json()["userId"]) == (201, "ada")
    found = await doors.call(forever, ("flow-state", {"flowId": "loop"}))
    assert found["state"].user_id == "ada"
    in_address = START._replace(query={"token": forever}, headers={"Authorization": ""})
    assert (await doors.send("x", in_address)).status_code == 401
    wrong = [
        forever.replace("ED25519-BASIC-TOKEN", "Ed25519-Basic-Token"),
        forever.replace("ED25519-BASIC-TOKEN", "Bearer"),
        f"Bearer {forever}",
        f"ED25519-BASIC-TOKEN {envelope_token(auth(role='blocked'))}",
        f"ED25519-BASIC-TOKEN {envelope_token(dt=1_700_000_000_000, ttl=None)}",
        "ED25519-BASIC-TOKEN",
    ]
    for each in wrong:
        answer = await doors.send("x", START._replace(headers={"Authorization": each}))
        assert (answer.status_code, answer.json()["code"]) == (401, "AUTHENTICATION_REQUIRED"), each
        with pytest.raises(socketio.exceptions.ConnectionRefusedError):
            await doors.call(each)
    await doors.sockets._connect("header", {"HTTP_AUTHORIZATION": forever})
    with pytest.raises(socketio.exceptions.ConnectionRefusedError):
        await doors.sockets._connect("query", {"QUERY_STRING": f"token={forever}"})
