"""Signatures of webhooks: compared with the specification's own library, and refused with a reason."""

import base64
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from app.cli.command import main
from app.outbound.webhook_diagnosis import explain
from app.outbound.webhook_signatures import (
    SecretError,
    SignatureFault,
    decode_secret,
    sign,
    signature_headers,
    verify,
)
from tests.support.long_form import examples

SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
OLDER = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(7, 39))).decode()
KEY, OLDER_KEY, OTHER_KEY = map(decode_secret, (SECRET, OLDER, OTHER))
NOW = 1_800_000_000
BODY = '{"id":"evt_1","name":"Zoë \u2028","n":[1,2.5,true,null],"a/b":{}}'.encode()


def signed(body: bytes = BODY, event_id: str = "evt_1", at: int = NOW) -> dict[str, str]:
    return signature_headers([KEY], event_id, at, body)


def fault(headers: Mapping[str, str], body: bytes = BODY, now: float = NOW) -> SignatureFault:
    found = verify([KEY], headers, body, now)
    assert found is not None
    return found


def test_the_example_of_the_specification() -> None:
    key = decode_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@examples(300)
@given(st.binary(min_size=24, max_size=64), st.text(), st.integers(0, 4_000_000_000))
def test_the_library_makes_and_accepts_the_same_signatures(key: bytes, text: str, at: int) -> None:
    body = text.encode(errors="replace")
    library = Webhook("whsec_" + base64.b64encode(key).decode())
    made = library.sign("evt_1", datetime.fromtimestamp(at, UTC), body.decode())
    assert sign(key, "evt_1", at, body) == made
    headers = signature_headers([OLDER_KEY, key], "evt_1", int(time.time()), body)
    library.verify(body, headers, json_parse=False)
    assert verify([key], headers, body, time.time()) is None


def test_several_signatures_are_in_the_order_of_their_keys_and_each_is_enough() -> None:
    headers = signature_headers([KEY, OLDER_KEY], "evt_1", NOW, BODY)
    assert headers == {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(NOW),
        "webhook-signature": f"{sign(KEY, 'evt_1', NOW, BODY)} {sign(OLDER_KEY, 'evt_1', NOW, BODY)}",
    }
    for keys in ([KEY], [OLDER_KEY], [OTHER_KEY, OLDER_KEY]):
        assert verify(keys, headers, BODY, NOW) is None
    assert verify([OTHER_KEY], headers, BODY, NOW) is not None
    assert verify([], headers, BODY, NOW) is not None


@pytest.mark.parametrize("event_id", ["", "evt.1", "evt 1", "evt\n1", "evt_ä", "x" * 257])
def test_an_id_that_cannot_be_signed(event_id: str) -> None:
    with pytest.raises(ValueError, match="without a dot"):
        sign(KEY, event_id, NOW, BODY)


@pytest.mark.parametrize(
    "form",
    [SECRET, f" {SECRET}\n", OLDER.rstrip("="), OLDER],
)
def test_a_secret_with_and_without_padding(form: str) -> None:
    assert decode_secret(form) in (KEY, OLDER_KEY)


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        ("", "must begin with whsec_"),
        ("hidden", "must begin with whsec_"),
        ("whsec_", "24 to 64 bytes, and has 0"),
        ("whsec_aGlkZGVu", "24 to 64 bytes, and has 6"),
        ("whsec_" + base64.b64encode(bytes(65)).decode(), "and has 65"),
        ("whsec_hidden!", "cut off, or altered"),
        ("whsec_" + "a" * 33, "cut off, or altered"),
        ("whsec_hiddén", "cut off, or altered"),
        ("whsk_aGlkZGVu", "asymmetric"),
        ("whpk_aGlkZGVu", "asymmetric"),
    ],
)
def test_a_text_that_is_no_secret_is_not_repeated(secret: str, says: str) -> None:
    with pytest.raises(SecretError, match=says) as refusal:
        decode_secret(secret)
    assert "hidd" not in str(refusal.value)
    assert "aGlkZGVu" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        ({"webhook-id": None}, "missing_header", "no webhook-id"),
        ({"webhook-id": " "}, "missing_header", "no webhook-id"),
        ({"webhook-id": None, "webhook-signature": None}, "missing_header", "id and no webhook-signature"),
        ({"webhook-timestamp": None}, "missing_header", "no webhook-timestamp"),
        ({"webhook-timestamp": "soon"}, "invalid_header", "whole number of seconds"),
        ({"webhook-timestamp": "-5"}, "invalid_header", "whole number of seconds"),
        ({"webhook-timestamp": f"{NOW}.5"}, "invalid_header", "whole number of seconds"),
        ({"webhook-timestamp": "١٢"}, "invalid_header", "whole number of seconds"),
        ({"webhook-timestamp": "9" * 21}, "invalid_header", "whole number of seconds"),
        ({"webhook-signature": "abc"}, "invalid_header", "has no comma"),
        ({"webhook-signature": "v1,abc def"}, "invalid_header", "has no comma"),
        ({"webhook-signature": "v1,a!"}, "invalid_header", "not base64"),
        ({"webhook-signature": "v1,ä"}, "invalid_header", "not base64"),
        ({"webhook-signature": "v1,YQ== " * 33}, "invalid_header", "more than 32"),
        ({"webhook-signature": "v2,YQ=="}, "unknown_version", "no signature of version v1"),
        ({"webhook-signature": "v1a,YQ=="}, "unknown_version", "the asymmetric form"),
        ({"webhook-signature": "v1,YQ=="}, "no_match", "no signature"),
        ({"webhook-signature": "v1,"}, "no_match", "no signature"),
        ({"webhook-id": "evt_2"}, "no_match", "no signature"),
        ({"webhook-timestamp": str(NOW + 1)}, "no_match", "no signature"),
    ],
)
def test_a_refused_request(change: dict[str, str | None], reason: str, says: str) -> None:
    headers = {name: text for name, text in (signed() | change).items() if text is not None}
    found = fault(headers)
    assert found.reason == reason
    assert says in found.text


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (NOW, None),
        (NOW - 300, None),
        (NOW + 300, None),
        (NOW - 301, "too_old"),
        (NOW + 301, "too_new"),
        (0, "too_old"),
        (NOW * 1000, "too_new"),
    ],
)
def test_the_age(at: int, reason: str | None) -> None:
    found = verify([KEY], signed(at=at), BODY, NOW)
    assert (found.reason if found else None) == reason
    assert verify([KEY], signed(at=at), BODY, NOW, None) is None
    altered = verify([KEY], signed(at=at), BODY + b" ", NOW)
    assert altered is not None
    assert altered.reason == "no_match"


@examples(300)
@given(st.dictionaries(st.sampled_from(list(signed())), st.text()), st.binary())
def test_any_headers_are_refused_with_a_reason_and_explained(headers: dict[str, str], body: bytes) -> None:
    found = fault(signed() | headers, body + b"!")
    assert all(isinstance(each, str) for each in explain(found, [KEY], signed() | headers, body + b"!"))


@pytest.mark.parametrize(
    ("altered", "says"),
    [
        (BODY + b"\n", "whitespace at its end"),
        (BODY + b" \r\n", "whitespace at its end"),
        (b" " + BODY, "whitespace around it"),
        (b"\xef\xbb\xbf" + BODY, "byte order mark"),
        (json.dumps(json.loads(BODY)).encode(), "parsed and written again"),
        (json.dumps(json.loads(BODY), indent=2).encode(), "parsed and written again"),
        (json.dumps(BODY.decode()).encode(), "written as a JSON string"),
        (base64.b64encode(BODY), "in base64"),
        (b"", "The body is empty"),
        (BODY.replace(b"evt_1", b"evt_9"), "another event: the body has the id evt_9, not evt_1"),
        (BODY[:-2], "not JSON"),
        (BODY.replace(b"2.5", b"2.6"), "secret may be that of another service"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_an_altered_body_is_explained(altered: bytes, says: str) -> None:
    body = BODY.replace(b"\\u2028", "\u2028".encode())
    altered = altered.replace(BODY, body)
    headers = signed(body)
    found = fault(headers, altered)
    assert found.reason == "no_match"
    assert any(says in each for each in explain(found, [KEY], headers, altered))


@pytest.mark.parametrize(
    ("sent", "received", "says"),
    [
        (b'{"a":\n1}\n', b'{"a":\r\n1}\r\n', "CR LF"),
        (b'{"a":1}\n', b'{"a":1}', "newline at its end was removed"),
        (BODY, BODY, "secret may be that of another service"),
    ],
)
def test_other_senders_and_other_secrets(sent: bytes, received: bytes, says: str) -> None:
    key = OTHER_KEY if sent == received else KEY
    headers = signed(sent)
    found = verify([key], headers, received, NOW)
    assert found is not None
    assert any(says in each for each in explain(found, [key], headers, received))


def command(*arguments: str, body: bytes = BODY, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, ["webhook", *arguments], input=body, env=env)


def test_the_commands_sign_and_verify(tmp_path: Path) -> None:
    made = command("sign", "--secret", SECRET, "--secret", OLDER, "--id", "evt_1")
    assert made.exit_code == 0
    lines, members = tmp_path / "headers", tmp_path / "headers.json"
    lines.write_text(f"POST /hooks HTTP/1.1\n{made.stdout}")
    for secret in (SECRET, OLDER):
        accepted = command("verify", "--secret", secret, "--headers", str(lines))
        assert (accepted.exit_code, accepted.stdout) == (0, "valid\n")
    named = dict(line.split(": ", 1) for line in made.stdout.splitlines())
    members.write_text(json.dumps({name.title(): [text] for name, text in named.items()}))
    accepted = command("verify", "--headers", str(members), env={"WEBHOOK_SECRET": OLDER})
    assert (accepted.exit_code, accepted.stdout) == (0, "valid\n")
    given = [
        *("--id", named["webhook-id"], "--timestamp", named["webhook-timestamp"]),
        *("--signature", named["webhook-signature"]),
    ]
    assert command("verify", "--secret", SECRET, *given).stdout == "valid\n"


def test_the_command_says_why_a_signature_is_refused() -> None:
    def refused(*arguments: str, body: bytes = BODY, at: int = NOW) -> list[str]:
        headers = [
            *("--id", "evt_1"),
            *("--timestamp", str(at)),
            "--signature",
            signed(at=at)["webhook-signature"],
        ]
        result = command("verify", "--secret", SECRET, *headers, *arguments, body=body)
        assert result.exit_code == 1
        assert SECRET not in result.output
        return result.stdout.splitlines()

    first, *others = refused("--any-age", body=BODY + b"\n")
    assert first == "refused: no signature in webhook-signature matches the body"
    assert others[0].startswith("  The secret is right, but the body was altered: there is whitespace")
    first, *others = refused(at=1_700_000_000)
    assert first.startswith("refused: webhook-timestamp is too old: ")
    assert others[0] == "  The signature is right. Check the clock of this machine (NTP)."
    assert "milliseconds" in refused(at=10**13)[1]
    assert "other secret" not in refused("--signature", "v2,YQ==")[0]
    assert command("verify", "--secret", SECRET).stdout.startswith(
        "refused: the request has no webhook-id and"
    )
    assert (
        command(
            *("verify", "--secret", SECRET, "--any-age", "--id", "evt_1", "--timestamp", str(NOW)),
            *("--signature", signed()["webhook-signature"]),
        ).stdout
        == "valid\n"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["verify"], "Missing option '--secret'"),
        (["verify", "--secret", "whsec_hidden!"], "whsec_ and base64"),
        (["sign", "--secret", SECRET, "--id", "a.b"], "without a dot"),
        (["sign", "--secret", SECRET, "missing-file"], "No such file"),
    ],
)
def test_the_command_refuses_wrong_arguments(arguments: list[str], says: str) -> None:
    result = command(*arguments)
    assert result.exit_code == 2
    assert says in result.output
    assert "hidden" not in result.output


def test_headers_that_are_no_texts_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text('{"webhook-id": 1}')
    result = command("verify", "--secret", SECRET, "--headers", str(file))
    assert result.exit_code == 2
    assert "a JSON object with texts" in result.output
